package library

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/mlxctl/mlxctl/internal/durable"
)

//go:embed tiny
var embedded embed.FS

// unpacked is the embedded model on disk. The folder is named after the content, so that binaries of several versions
// share a cache. Each file appears whole or not at all, and several processes may unpack at once: they write the same.
type unpacked struct {
	dir   string
	files map[string][]byte

	mu    sync.Mutex
	stamp string // of the files as they were when last compared with the binary; guarded by mu
}

func unpackTiny(cacheDir string) (*unpacked, error) {
	u := &unpacked{files: make(map[string][]byte)}
	entries, err := embedded.ReadDir("tiny")
	if err != nil {
		return nil, fmt.Errorf("read embedded model: %w", err)
	}
	sum := sha256.New()
	for _, e := range entries {
		data, err := embedded.ReadFile("tiny/" + e.Name())
		if err != nil {
			return nil, fmt.Errorf("read embedded model: %w", err)
		}
		u.files[e.Name()] = data
		sum.Write(fmt.Appendf(nil, "%s %d\n", e.Name(), len(data)))
		sum.Write(data)
	}
	u.dir = filepath.Join(cacheDir, "models", "tiny-"+hex.EncodeToString(sum.Sum(nil))[:16])
	_, err = u.ensure()
	return u, err
}

// ensure returns the folder when all files in it are as they should be, after mending those that are not.
func (u *unpacked) ensure() (string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if stamp, err := u.look(); err == nil && stamp == u.stamp && stamp != "" {
		return u.dir, nil
	}
	if err := u.mend(); err != nil {
		return "", fmt.Errorf("unpack embedded model: %w", err)
	}
	stamp, err := u.look()
	if err != nil {
		return "", fmt.Errorf("unpack embedded model: %w", err)
	}
	u.stamp = stamp
	return u.dir, nil
}

// look makes a stamp of the folder that changes when a file does.
func (u *unpacked) look() (string, error) {
	entries, err := os.ReadDir(u.dir)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, e := range entries {
		if _, isPart := durable.PartOf(e.Name()); isPart {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%q %s %d %d\n", e.Name(), info.Mode(), info.Size(), info.ModTime().UnixNano())
	}
	return b.String(), nil
}

// mend writes the files that are missing or differ, and removes what does not belong there: mlx-lm loads every file
// that looks like weights.
func (u *unpacked) mend() error {
	if err := os.MkdirAll(u.dir, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(u.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if u.files[e.Name()] != nil && e.Type().IsRegular() {
			continue
		}
		if of, isPart := durable.PartOf(e.Name()); isPart && u.files[of] != nil {
			continue // another process may be writing it
		}
		if err := os.RemoveAll(filepath.Join(u.dir, e.Name())); err != nil {
			return err
		}
	}
	for name, want := range u.files {
		path := filepath.Join(u.dir, name)
		if got, err := os.ReadFile(path); err == nil && bytes.Equal(got, want) {
			continue
		}
		if err := durable.Write(path, want, 0o644); err != nil {
			return err
		}
	}
	return nil
}
