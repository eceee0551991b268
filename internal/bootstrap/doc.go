// Package bootstrap is the operator's side of an installation: it reaches hosts over SSH, learns what they are, copies the
// binary there, and speaks with the host's side, which that binary runs. Everything that a host says is untrusted: it is
// bounded in size, and loses its control characters before anybody sees it. Nothing here runs before the host's key is
// known, and nothing is written on a host but by Apply.
package bootstrap
