package trust

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	apiKeyPrefix = "mlx-"
	apiKeyBytes  = 32
	apiKeyDigits = 43 // 32 bytes in base 62
)

// newAPIKey makes a key that is easy to select, copy and find.
func newAPIKey() (string, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 8*apiKeyBytes))
	if err != nil {
		return "", fmt.Errorf("make API key: %w", err)
	}
	digits := n.Text(62)
	return apiKeyPrefix + strings.Repeat("0", apiKeyDigits-len(digits)) + digits, nil
}

// APIKeyPath is the file of the key of the HTTP API; its time of change tells of a new key, or of other ones that are
// accepted too.
func (a *Authority) APIKeyPath() string { return filepath.Join(a.dir, fileAPIKey) }

// APIKey returns the key of the HTTP API, as it is on disk now.
func (a *Authority) APIKey() (string, error) {
	data, err := os.ReadFile(a.APIKeyPath())
	if err != nil {
		return "", fmt.Errorf("read API key: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// formerKey is a key that ends soon.
type formerKey struct {
	Key   string    `json:"key"`
	Until time.Time `json:"until"`
}

// APIKeys returns what is accepted at a time: the key of the HTTP API first, then those that it replaced and whose grace
// lasts. until is when the first of these ends; zero where there is none.
func (a *Authority) APIKeys(now time.Time) (keys []string, until time.Time, err error) {
	// The former ones first: should they be replaced in between, the key that is read next is the newer one.
	former, err := a.formerAPIKeys()
	if err != nil {
		return nil, time.Time{}, err
	}
	key, err := a.APIKey()
	if err != nil {
		return nil, time.Time{}, err
	}
	keys = []string{key}
	for _, f := range former {
		if !now.Before(f.Until) {
			continue
		}
		keys = append(keys, f.Key)
		if until.IsZero() || f.Until.Before(until) {
			until = f.Until
		}
	}
	return keys, until, nil
}

func (a *Authority) formerAPIKeys() ([]formerKey, error) {
	data, err := os.ReadFile(filepath.Join(a.dir, fileFormerAPIKeys))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read former API keys: %w", err)
	}
	var former []formerKey
	if err := json.Unmarshal(data, &former); err != nil {
		return nil, fmt.Errorf("read former API keys: %w", err)
	}
	return former, nil
}

// RotateAPIKey replaces the key of the HTTP API and returns the new one. The old one is accepted for the time of grace
// from now on; without grace, those of earlier rotations end too.
func (a *Authority) RotateAPIKey(now time.Time, grace time.Duration) (string, error) {
	key, err := newAPIKey()
	if err != nil {
		return "", err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	release, err := lock(a.dir)
	if err != nil {
		return "", err
	}
	defer release()
	kept := []formerKey{}
	if grace > 0 {
		former, err := a.formerAPIKeys()
		if err != nil {
			return "", err
		}
		old, err := a.APIKey()
		if err != nil {
			return "", err
		}
		for _, f := range append(former, formerKey{old, now.Add(grace)}) {
			if now.Before(f.Until) {
				kept = append(kept, f)
			}
		}
	}
	data, err := json.Marshal(kept)
	if err != nil {
		return "", fmt.Errorf("encode former API keys: %w", err)
	}
	// A crash in between leaves the old key both ways, which does no harm.
	if err := replace(a.dir, fileFormerAPIKeys, data); err != nil {
		return "", err
	}
	if err := replace(a.dir, fileAPIKey, []byte(key+"\n")); err != nil {
		return "", err
	}
	return key, nil
}
