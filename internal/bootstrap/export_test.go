package bootstrap

import (
	"context"
	"io"
)

// PutFile has a host hold a file.
func (b *Bootstrap) PutFile(ctx context.Context, h *Host, path, sum string, from io.ReadCloser) (bool, error) {
	s, err := b.reach(ctx, h)
	if err != nil {
		return false, err
	}
	return put(ctx, s, blob{Path: path, SHA256: sum, Mode: "644", Open: func() (io.ReadCloser, error) { return from, nil }})
}

// Judge says what is found of a host with these facts.
func (b *Bootstrap) Judge(h *Host) { h.Findings = b.judge(h) }

// ParseFactLines reads what a host's script printed.
func ParseFactLines(out []byte) Facts { return parseFacts(factLines(out)) }

// Shell is the command line that runs a script.
func Shell(script string) string { return shell(script) }

// Quote makes one word of a shell.
func Quote(s string) string { return quote(s) }

// LockFor returns the part of a list of packages that holds for a platform.
func LockFor(w WheelsFor) (string, error) { return lockFor(w) }
