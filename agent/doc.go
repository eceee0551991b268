// Package agent is the process on every node: it tells the controller what the node is and how it does, and answers
// with the models in its memory.
package agent
