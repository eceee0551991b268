package doctor

// Room judges how much of a disk is free.
var Room = room
