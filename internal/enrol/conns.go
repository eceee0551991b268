package enrol

import (
	"crypto/tls"
	"net"
	"net/http"
	"slices"
	"sync"

	"github.com/mlxctl/mlxctl/internal/flood"
)

// connections bounds them. Whoever only connects keeps nobody out but itself: beyond the bound, of the address with the most
// silent connections the one that has been silent for longest makes room.
type connections struct {
	mu     sync.Mutex
	open   int        // guarded by mu
	silent []net.Conn // guarded by mu; those that have asked nothing yet, oldest first
}

// changed is http.Server's ConnState.
func (s *connections) changed(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.open++
		s.silent = append(s.silent, c)
		if s.open > mostConns {
			s.makeRoom()
		}
		return
	case http.StateClosed, http.StateHijacked:
		s.open--
	case http.StateActive, http.StateIdle:
	}
	s.silent = slices.DeleteFunc(s.silent, func(x net.Conn) bool { return x == c })
}

func (s *connections) makeRoom() {
	if len(s.silent) == 0 {
		return
	}
	oldest := flood.OldestOfLoudest(s.silent)
	end(s.silent[oldest])
	s.silent = slices.Delete(s.silent, oldest, oldest+1)
}

// end closes a connection without a word: TLS would wait for a peer that does not read.
func end(c net.Conn) {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	_ = c.Close() // it was told nothing
}
