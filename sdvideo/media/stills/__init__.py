"""Pictures and animations, through Pillow: stills of all kinds, HEIF from its structure on."""
