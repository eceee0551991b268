package cmd

import (
	"os"
	"sync"
	"time"
)

// keyCheckEvery is how often the file of the API key is looked at: a new key counts within that time.
const keyCheckEvery = time.Second

// cachedKey reads the API key again when its file changed, so that rotating it needs no restart and checking it, with
// every request, no reading. It is safe for concurrent use.
type cachedKey struct {
	path string
	read func() (string, error)

	mu      sync.Mutex
	key     string    // guarded by mu, as is everything below
	changed time.Time // of the file that key was read from
	checked time.Time
}

func (k *cachedKey) get() (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if k.key != "" && now.Sub(k.checked) < keyCheckEvery {
		return k.key, nil
	}
	info, err := os.Stat(k.path)
	if err != nil {
		return "", unauthorizedKey("the API key", err)
	}
	k.checked = now
	if k.key != "" && info.ModTime().Equal(k.changed) {
		return k.key, nil
	}
	key, err := k.read()
	if err != nil {
		return "", err
	}
	k.key, k.changed = key, info.ModTime()
	return key, nil
}
