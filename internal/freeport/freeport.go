// Package freeport gives tests ports of this machine for what has to know its port before it listens, or that listens on
// it once more after a restart. A port of the system's own choice will not do: between two uses the system may give it
// to somebody else. Nor will one at random: of hundreds of tests at once two would choose the same one day.
package freeport

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

const (
	// The system gives no port of this range by itself: its own begin at 32768, on macOS at 49152.
	first, last = 10240, 32767
	// blockSize is how many ports a process takes at once. While it holds the first of them, the others are its own.
	blockSize = 128
)

var errNone = errors.New("no free port")

// ports are those of this process.
type ports struct {
	mu    sync.Mutex
	holds []net.Listener // the first port of each block, until the process ends
	next  int            // not given yet, as all up to end; guarded by mu
	end   int            // of the block
}

var own ports //nolint:gochecknoglobals // a process has its ports once, whichever test asks

// Addr is an address on 127.0.0.1 where nothing listens, and that no other test is given.
func Addr(tb testing.TB) string {
	tb.Helper()
	return address(Port(tb))
}

// Port is the port of an Addr.
func Port(tb testing.TB) int {
	tb.Helper()
	port, err := own.take(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return port
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func listen(ctx context.Context, port int) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(ctx, "tcp", address(port)) //nolint:wrapcheck // only whether it can
}

func (p *ports) take(ctx context.Context) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for ; p.next < p.end; p.next++ {
			if l, err := listen(ctx, p.next); err == nil {
				p.next++
				return p.next - 1, l.Close() //nolint:wrapcheck // nothing was sent
			}
		}
		if err := p.claim(ctx); err != nil {
			return 0, err
		}
	}
}

// claim takes a block that no process has.
func (p *ports) claim(ctx context.Context) error {
	const blocks = (last - first + 1) / blockSize
	for _, b := range rand.Perm(blocks) {
		start := first + b*blockSize
		if l, err := listen(ctx, start); err == nil {
			p.holds = append(p.holds, l)
			p.next, p.end = start+1, start+blockSize
			return nil
		}
	}
	return errNone
}
