package trust

import (
	"crypto/rand"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
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

// APIKeyPath is the file of the key of the HTTP API; its time of change tells of a new key.
func (a *Authority) APIKeyPath() string { return filepath.Join(a.dir, fileAPIKey) }

// APIKey returns the key of the HTTP API, as it is on disk now.
func (a *Authority) APIKey() (string, error) {
	data, err := os.ReadFile(a.APIKeyPath())
	if err != nil {
		return "", fmt.Errorf("read API key: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// RotateAPIKey replaces the key of the HTTP API and returns the new one. The old one ends where the key is read again.
func (a *Authority) RotateAPIKey() (string, error) {
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
	if err := replace(a.dir, fileAPIKey, []byte(key+"\n")); err != nil {
		return "", err
	}
	return key, nil
}
