"""Where things of a picture go in a clip, and the picture's detail carried there."""
