package mlxbridge

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// unpackSource puts the worker's source under <cache>/worker/<digest>, whole and unchanged, and returns that folder.
func unpackSource(source fs.FS, cacheDir string) (string, error) {
	files := map[string][]byte{}
	sum := sha256.New()
	err := fs.WalkDir(source, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(source, path)
		if err != nil {
			return err
		}
		files[path] = data
		_, _ = fmt.Fprintf(sum, "%s %d\n", path, len(data))
		_, _ = sum.Write(data) // a digest takes everything
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("read worker source: %w", err)
	}
	dir := filepath.Join(cacheDir, "worker", hex.EncodeToString(sum.Sum(nil))[:12])
	if isUnpacked(files, dir) {
		return dir, nil
	}
	if err := writeTree(files, dir); err != nil {
		return "", fmt.Errorf("unpack worker source: %w", err)
	}
	return dir, nil
}

func isUnpacked(files map[string][]byte, dir string) bool {
	for path, want := range files {
		got, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(path)))
		if err != nil || !bytes.Equal(got, want) {
			return false
		}
	}
	return true
}

// writeTree makes dir hold files: it appears whole or not at all. Whoever does the same at the same time does no harm.
func writeTree(files map[string][]byte, dir string) error {
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(parent, ".new-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	for path, data := range files {
		to := filepath.Join(tmp, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, data, 0o644); err != nil {
			return err
		}
	}
	if os.Rename(tmp, dir) == nil {
		return nil
	}
	// Something is there: another process was first, or a file in it was changed.
	if isUnpacked(files, dir) {
		return nil
	}
	old, err := os.MkdirTemp(parent, ".old-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(old) }()
	if err := os.Rename(dir, filepath.Join(old, "tree")); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil && !isUnpacked(files, dir) {
		return err
	}
	return nil
}
