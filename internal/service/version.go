package service

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/durable"
)

// Names of a folder of Options.Versions.
const (
	copyName    = "mlxctl"
	versionName = "version" // holds Options.Version
)

// recentName is a file in Options.Versions with the names of the folders of two versions: the one that was started last, and
// the one before it.
const recentName = "recent"

// Prepare does what may fail before Start touches anything: it makes the copy of the binary, and returns o with that in place of
// it. Options that need no copy are returned as they are. The caller holds Acquire's lock.
func Prepare(o Options) (Options, error) {
	if o.Versions == "" || o.isCopy() {
		return o, nil
	}
	sum := sha256.Sum256([]byte(o.Version))
	dir := filepath.Join(o.Versions, hex.EncodeToString(sum[:6]))
	err := o.copyTo(dir)
	switch {
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG):
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
	if err := durable.MkdirAll(o.Versions, 0o700); err != nil {
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
	if err := durable.WriteFrom(filepath.Join(tmp, copyName), in, 0o700); err != nil {
		return err
	}
	if err := durable.Write(filepath.Join(tmp, versionName), []byte(o.Version), 0o600); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil { // one that is not whole
		return err
	}
	return durable.Rename(tmp, dir)
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

// keepCopies notes that o runs, and removes all copies but its own and that of the version before: as long as the version stays,
// neither other settings nor a stop change which that is. before is what ran last, for a folder without a note.
func (o Options) keepCopies(before string) error {
	if !o.isCopy() {
		return nil
	}
	own, path := folderOf(o.Exe), filepath.Join(o.Versions, recentName)
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	recent := strings.Fields(string(data))
	if len(recent) == 0 && before != "" {
		recent = []string{folderOf(before)}
	}
	if len(recent) == 0 || recent[0] != own {
		recent = append([]string{own}, recent[:min(1, len(recent))]...)
		if err := durable.Write(path, []byte(strings.Join(recent, "\n")+"\n"), 0o600); err != nil {
			return err
		}
	}
	return o.prune(recent)
}

// folderOf is the name of the folder that holds a copy.
func folderOf(exe string) string { return filepath.Base(filepath.Dir(exe)) }

// prune removes all copies but those in folders of these names.
func (o Options) prune(keep []string) error {
	entries, err := os.ReadDir(o.Versions)
	if err != nil {
		return err
	}
	var failed error
	for _, e := range entries {
		if e.IsDir() && !slices.Contains(keep, e.Name()) {
			failed = errors.Join(failed, os.RemoveAll(filepath.Join(o.Versions, e.Name())))
		}
	}
	return failed
}
