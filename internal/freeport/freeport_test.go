package freeport_test

import (
	"net"
	"sync"
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

// More than a block of them, as many tests at once want them: none is given twice, and all can be listened on.
func TestNoPortIsGivenTwice(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	given := make(map[int]bool)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 40 {
				port := freeport.Port(t)
				mu.Lock()
				if given[port] {
					t.Errorf("%d is given twice", port)
				}
				given[port] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}
