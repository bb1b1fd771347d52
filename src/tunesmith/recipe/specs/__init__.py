"""The settings of every room, one file a room, free of torch so that they load at once."""
