// Package service keeps mlxctl's background processes alive without an init system: a keeper, detached from the
// terminal, runs the controller and the agent of one home as its children, restarts what dies, and leaves nothing
// behind. Only one keeper can hold a home's lock, so whoever starts a second one does no harm.
//
// Files below <home>/run: desired (there while the services should run), keeper.lock (held by a living keeper),
// keeper.json (what it runs), op.lock (held by a command that starts or stops), and for a child NAME that could not start
// NAME.failed, which that child writes. Logs are in <home>/log.
// keeper.sock is where a command that replaces the keeper asks it for its socket.
//
// What runs is a copy of the binary where Options.Versions names a folder for it; the copy of the version before is kept.
//
// Where a child listens, the keeper holds the socket and hands it to each new start of the child, and to the keeper that
// follows when the version or the settings change: connections wait meanwhile, and what is open is finished first.
//
// A keeper that is killed takes its children with it: each holds one end of a pipe from it, starts a new keeper when
// the pipe ends, and goes. The new keeper first ends what is left of the old one's session.
package service
