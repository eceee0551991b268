// Package controller is the process that places requests. It knows the nodes by what they say on the bus and when it
// heard them last, queues and places every request through one Dispatch, streams the answer back in order, and shows
// the state of the whole as Snapshots and Events. Nothing here outlives the process: a controller that starts again
// learns everything from the nodes within one heartbeat.
package controller
