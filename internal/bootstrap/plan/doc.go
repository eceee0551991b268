// Package plan is what the operator's side and the host's side of an installation say to each other: one JSON object a
// line, over the standard input and output of `mlxctl agent host` at the far end of an SSH session. The standard library and
// the words of the cluster are all it needs, so that both sides can import it.
package plan
