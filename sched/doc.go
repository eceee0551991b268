// Package sched decides which node answers a request. It is pure: no I/O, no clock, no randomness and no state, so the
// same input gives the same answer in the controller, in a test and in a simulation.
//
// Place works in three steps: it refuses the nodes that cannot take the request, each with a code and a reason, prices
// the others, and takes the cheapest.
package sched
