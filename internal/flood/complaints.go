package flood

import (
	"sync"
	"time"
)

const (
	// ComplainEvery is how often the same thing of the same sender is worth a line.
	ComplainEvery  = time.Second
	mostComplaints = 32
)

// Complaints decides what senders do wrong is worth a line of a log: one line a second for each of them, however much they
// send. The zero value is ready, and safe for concurrent use.
type Complaints struct {
	mu   sync.Mutex
	said map[string]*complaint // guarded by mu
}

type complaint struct {
	at     time.Time // of the last line
	unsaid int
}

// Say says whether something about a sender is worth a line now, and how often it came before without one. Beyond 32 of
// them, the others share a line.
func (c *Complaints) Say(about string, now time.Time) (before int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.said == nil {
		c.said = make(map[string]*complaint)
	}
	x := c.said[about]
	if x == nil && len(c.said) >= mostComplaints {
		for k, old := range c.said {
			if now.Sub(old.at) >= ComplainEvery && old.unsaid == 0 {
				delete(c.said, k)
			}
		}
		if len(c.said) >= mostComplaints {
			about = ""
			x = c.said[about]
		}
	}
	switch {
	case x == nil:
		c.said[about] = &complaint{at: now}
		return 0, true
	case now.Sub(x.at) < ComplainEvery:
		x.unsaid++
		return 0, false
	}
	before, x.at, x.unsaid = x.unsaid, now, 0
	return before, true
}
