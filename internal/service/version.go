package service

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Names of a folder of Options.Versions.
const (
	copyName    = "mlxctl"
	versionName = "version" // holds Options.Version
)

// withCopy returns o with a copy of the binary in place of it. Nothing that runs is touched by it.
func (o Options) withCopy() (Options, error) {
	if o.Versions == "" || o.isCopy() {
		return o, nil
	}
	sum := sha256.Sum256([]byte(o.Version))
	dir := filepath.Join(o.Versions, hex.EncodeToString(sum[:6]))
	err := o.copyTo(dir)
	switch {
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return o, cluster.Errorf(cluster.CodeConflict, "no space left for a copy of %s in %s", o.Exe, o.Versions).WithHint("free some, then run it again")
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist):
		return o, cluster.Errorf(cluster.CodeConflict, "cannot copy %s: %v", o.Exe, err).WithHint("services run out of a copy: let this user read the binary, and write in %s", o.Versions)
	case err != nil:
		return o, fmt.Errorf("copy %s: %w", o.Exe, err)
	}
	o.Exe = filepath.Join(dir, copyName)
	return o, nil
}

// copyTo makes the folder of a version, whole or not at all.
func (o Options) copyTo(dir string) (err error) {
	in, err := os.Open(o.Exe)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if there, err := os.Stat(filepath.Join(dir, copyName)); err == nil && there.Size() == info.Size() && versionIn(dir) == o.Version {
		return nil
	}
	if err := os.MkdirAll(o.Versions, 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(o.Versions, ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	out, err := os.OpenFile(filepath.Join(tmp, copyName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, versionName), []byte(o.Version), 0o600); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil { // one that is not whole
		return err
	}
	return os.Rename(tmp, dir)
}

// isCopy says that the binary is a copy already, as that of keeper and children is.
func (o Options) isCopy() bool {
	all, err1 := os.Stat(o.Versions)
	holds, err2 := os.Stat(filepath.Dir(filepath.Dir(o.Exe)))
	return o.Versions != "" && err1 == nil && err2 == nil && os.SameFile(all, holds)
}

// versionOfCopy is what a copy was made as: seen from it, the version may be told otherwise.
func (o Options) versionOfCopy() string {
	if !o.isCopy() {
		return o.Version
	}
	return versionIn(filepath.Dir(o.Exe))
}

func versionIn(dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, versionName))
	if err != nil {
		return ""
	}
	return string(data)
}

// prune removes all copies but those.
func (o Options) prune(keep ...string) error {
	entries, err := os.ReadDir(o.Versions)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var failed error
next:
	for _, e := range entries {
		for _, exe := range keep {
			if e.Name() == filepath.Base(filepath.Dir(exe)) {
				continue next
			}
		}
		failed = errors.Join(failed, os.RemoveAll(filepath.Join(o.Versions, e.Name())))
	}
	return failed
}
