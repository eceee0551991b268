// Package durable keeps files whole whatever happens: one that is written holds the old or the new content at every
// moment, also after a kill or a loss of power, and is on the disk with its name when the call returns. Locks between
// processes let them change such files one after another.
//
// A write lists its folder, to remove what writers of the same file left that were killed: it takes longer in a folder of many
// thousand files.
package durable
