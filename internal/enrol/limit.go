package enrol

import (
	"net"
	"sync"
	"time"
)

// Tries that one address may make: a burst, and then one each refill. A person who mistypes never notices.
const (
	burst  = 10
	refill = time.Second
	// mostSources bounds the addresses that are remembered; the others share one budget.
	mostSources = 1024
)

// limiter bounds how often each address may try.
type limiter struct {
	mu      sync.Mutex
	sources map[string]*budget // guarded by mu
}

type budget struct {
	left float64
	at   time.Time
}

// allow takes one try from the budget of an address.
func (l *limiter) allow(remote string, now time.Time) bool {
	host := hostOf(remote)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sources == nil {
		l.sources = make(map[string]*budget)
	}
	b := l.sources[host]
	if b == nil && len(l.sources) >= mostSources {
		l.forget(now)
	}
	if b == nil && len(l.sources) >= mostSources {
		host = ""
		b = l.sources[host]
	}
	if b == nil {
		b = &budget{left: burst, at: now}
		l.sources[host] = b
	}
	b.left = min(burst, b.left+float64(now.Sub(b.at))/float64(refill))
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

func hostOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return host
}

// forget drops addresses whose budget is whole again.
func (l *limiter) forget(now time.Time) {
	for host, b := range l.sources {
		if now.Sub(b.at) > burst*refill {
			delete(l.sources, host)
		}
	}
}
