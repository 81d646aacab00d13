"""Motion between pictures: optical flow, block motion, scene cuts."""
