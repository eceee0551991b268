package cmd

import (
	"os"
	"sync"
	"time"
)

// keyCheckEvery is how often the file of the API key is looked at: a new key counts within that time.
const keyCheckEvery = time.Second

// cachedKeys reads the API keys again when their file changed or one of them ends, so that rotating them needs no restart
// and checking them, with every request, no reading. It is safe for concurrent use.
type cachedKeys struct {
	path string
	read func(now time.Time) (keys []string, until time.Time, err error)

	mu      sync.Mutex
	keys    []string  // guarded by mu, as is everything below
	until   time.Time // when the first of keys ends; zero for never
	changed time.Time // of the file that keys were read from
	checked time.Time
}

func (k *cachedKeys) get() ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	over := !k.until.IsZero() && !now.Before(k.until)
	if len(k.keys) > 0 && !over && now.Sub(k.checked) < keyCheckEvery {
		return k.keys, nil
	}
	info, err := os.Stat(k.path)
	if err != nil {
		return nil, unauthorizedKey("the API key", err)
	}
	k.checked = now
	if len(k.keys) > 0 && !over && info.ModTime().Equal(k.changed) {
		return k.keys, nil
	}
	keys, until, err := k.read(now)
	if err != nil {
		return nil, err
	}
	k.keys, k.until, k.changed = keys, until, info.ModTime()
	return keys, nil
}
