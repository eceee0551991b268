package freeport_test

import (
	"net"
	"testing"

	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/freeport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAddrCanBeListenedOnAgainAndAgain(t *testing.T) {
	t.Parallel()
	addr := freeport.Addr(t)
	for range 3 {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
