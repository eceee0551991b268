package bootstrap

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// idDigits is how much of a hash tells two builds of one version apart.
const idDigits = 12

// VersionID names the folder of a binary below versions: its version and the beginning of its hash, so that two builds of
// one version never share a folder.
func VersionID(version, path string) (string, error) {
	sum, _, err := digest(path)
	if err != nil {
		return "", cluster.Errorf(cluster.CodeInternal, "read binary: %v", err)
	}
	return notVersion.ReplaceAllString(version, "_") + "-" + sum[:idDigits], nil
}

var notVersion = regexp.MustCompile(`[^0-9A-Za-z.+-]`)

// BinaryFor returns the path of the binary of this version for a platform: self, the running one, where that is the same;
// else one that was put into <cacheDir>/binaries/<version>.
func BinaryFor(goos, goarch, version, self, cacheDir string) (string, error) {
	if goos == runtime.GOOS && goarch == runtime.GOARCH {
		return self, nil
	}
	name := fmt.Sprintf("mlxctl_%s_%s", goos, goarch)
	path := filepath.Join(cacheDir, "binaries", version, name)
	info, err := os.Stat(path)
	if err == nil && info.Mode().IsRegular() {
		return path, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", cluster.Errorf(cluster.CodeInternal, "look for a binary for %s/%s: %v", goos, goarch, err)
	}
	return "", cluster.Errorf(cluster.CodeUnsupported, "no mlxctl %s for %s/%s on this machine", version, goos, goarch).
		WithHint("put that release's binary at %s", path)
}

// digest returns the hash of a file, and its size.
func digest(path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if size, err = io.Copy(h, f); err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}
