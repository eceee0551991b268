// Package freeport gives tests ports of this machine for what has to know its port before it listens, or that listens on
// it once more after a restart. A port of the system's own choice will not do: between two uses the system may give it
// to somebody else.
package freeport

import (
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// The system gives no port of this range by itself: its own begin at 32768, on macOS at 49152.
const first, last = 10240, 32767

// Addr is an address on 127.0.0.1 where nothing listens.
func Addr(tb testing.TB) string {
	tb.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(Port(tb)))
}

// Port is the port of an Addr.
func Port(tb testing.TB) int {
	tb.Helper()
	for range 100 {
		port := first + rand.IntN(last-first+1) // tests at the same time choose others
		l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			tb.Fatal(err)
		}
		return port
	}
	tb.Fatal("no free port")
	return 0
}
