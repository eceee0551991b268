// Package unit has the agent of a node run by whatever the host's system runs services with: launchd, a user's systemd,
// runit, or, where there is none of them, our own keeper. Each is a Driver. None knows what the agent does.
package unit
