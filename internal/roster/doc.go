// Package roster is the list of nodes that a cluster has admitted, on disk: who they are, where they were found, and how
// to reach them. It is written by the commands that admit and remove nodes and read by the controller, which thereby
// knows nodes that it has not heard of yet.
package roster
