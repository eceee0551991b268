package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// partInfix is between the name of a file and a random number in the name that it has until it is whole.
const partInfix = ".part-"

// Write makes the file at path hold data, with the given permissions whatever the umask is. Whoever reads it meanwhile gets
// the old content or the new. Where it fails the old content stays and nothing is left beside it; only where the folder
// cannot be synced at the end, the new content is there and may not outlive a loss of power. A link at path is replaced,
// not followed. The folder must be there. It is safe for concurrent use, also by several processes: the last one wins.
func Write(path string, data []byte, mode fs.FileMode) error {
	return WriteFrom(path, bytes.NewReader(data), mode)
}

// WriteFrom is Write of what r gives until its end.
func WriteFrom(path string, r io.Reader, mode fs.FileMode) error {
	sweep(path)
	f, lock, err := create(path)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer lock.Close() //nolint:errcheck // only read
	_, err = io.Copy(f, r)
	if err == nil {
		err = errors.Join(f.Chmod(mode), f.Sync())
	}
	// It is closed before it has its name: no system runs a program that is open for writing.
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return SyncDir(filepath.Dir(path))
}

// create makes the file, readable by its owner alone, that is to become the one at path. While lock is open it is locked, and no
// other writer takes it for one that was left behind.
func create(path string) (f, lock *os.File, err error) {
	for {
		f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+partInfix+"*") // 0600
		if err != nil {
			return nil, nil, err
		}
		lock, err := lockPart(f.Name())
		if err == nil {
			return f, lock, nil
		}
		_ = f.Close()
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, errors.Join(err, os.Remove(f.Name()))
		}
		// Another writer took it, before it was locked, for one that was left behind.
	}
}

// lockPart opens a file that was just made, and locks it. The error is fs.ErrNotExist where it is gone.
func lockPart(part string) (*os.File, error) {
	lock, err := os.Open(part)
	if err != nil {
		return nil, err
	}
	_ = flock(lock, unix.LOCK_EX) // on a file system that has no locks nobody can sweep it either
	if _, err := os.Lstat(part); err != nil {
		_ = lock.Close() // only read
		return nil, err
	}
	return lock, nil
}

// sweep removes what writers of path left that were killed: such files are not locked any more. What cannot be removed is
// no reason to write nothing.
func sweep(path string) {
	dir := filepath.Dir(path)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if of, ok := PartOf(e.Name()); ok && of == filepath.Base(path) {
			sweepOne(filepath.Join(dir, e.Name()))
		}
	}
}

func sweepOne(part string) {
	f, err := os.OpenFile(part, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close() //nolint:errcheck // only read
	if flock(f, unix.LOCK_EX|unix.LOCK_NB) == nil {
		_ = os.Remove(part)
	}
}

// PartOf says that name is the one that a file has while it is written, and returns the name that it gets when it is whole.
// A writer that was killed leaves such a file until the next one writes to the same path.
func PartOf(name string) (of string, ok bool) {
	i := strings.LastIndex(name, partInfix)
	if i < 2 || name[0] != '.' {
		return "", false
	}
	number := name[i+len(partInfix):]
	return name[1:i], number != "" && strings.Trim(number, "0123456789") == ""
}

// Remove removes the file at path, if it is there. It stays removed after a loss of power.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := SyncDir(filepath.Dir(path)) // also where it was not there: who removed it may have been killed before this
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Rename gives a file, a folder or a link another name in its folder, in place of what has that name. It keeps that name
// after a loss of power; what is in it is the caller's to sync.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(to))
}

// MkdirAll makes a folder and those above it, with the given permissions less the umask. Their names are on the disk when it
// returns. It is no error where it is there.
func MkdirAll(dir string, mode fs.FileMode) error {
	var missing []string
	for d := filepath.Clean(dir); d != filepath.Dir(d); d = filepath.Dir(d) {
		if _, err := os.Stat(d); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		missing = append(missing, d)
	}
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	for _, d := range missing {
		if err := SyncDir(filepath.Dir(d)); err != nil {
			return err
		}
	}
	return nil
}

// SyncDir has the names in a folder be on the disk. File systems that know no such thing for folders are left alone.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	defer d.Close() //nolint:errcheck // only read
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}
