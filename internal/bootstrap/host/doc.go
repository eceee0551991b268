// Package host is the host's side of an installation: it makes one machine a node, or none any more, as an operator's
// order says, and leaves the machine as it was where that does not work out. Every step looks first, changes only what is
// not right, and looks again; what was there before is in a journal on the disk before the first change, so that even
// after a power cut the next run, or the agent itself, goes back.
//
// Files below the node's home: versions/<id>/mlxctl and the link current to one of these folders; node.json and
// agent/node.creds, which the agent runs with; unit.json, which says what runs it; install.json, the journal of an
// installation that is not over; lock, which whoever changes anything holds.
package host
