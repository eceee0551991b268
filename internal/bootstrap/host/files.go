package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	idDigits = 12 // of the hash in the name of a version
	lockWait = 2 * time.Second
	mostFile = 16 << 20
)

var versionID = regexp.MustCompile(`^[0-9A-Za-z_][0-9A-Za-z._+-]{0,120}-[0-9a-f]{12}$`)

func (s *session) path(names ...string) string {
	return filepath.Join(append([]string{s.order.Home}, names...)...)
}

func (s *session) binary(version string) string { return s.path("versions", version, "mlxctl") }

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// lockHome makes changing a home one at a time. Who holds it is written into the file, for whoever comes second.
func lockHome(ctx context.Context, home, operator string) (unlock func(), err error) {
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, fmt.Errorf("make home: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	path := filepath.Join(home, "lock")
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		f, err := tryLock(path)
		if err != nil {
			return nil, err
		}
		if f != nil {
			owner := fmt.Sprintf("%s (here pid %d, since %s)\n", oneLine(operator), os.Getpid(), time.Now().UTC().Format(time.RFC3339))
			if err := errors.Join(f.Truncate(0), writeAt(f, owner)); err != nil && !errors.Is(err, unix.ENOSPC) {
				return nil, errors.Join(fmt.Errorf("write lock: %w", err), f.Close())
			}
			return func() { _ = f.Close() }, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			owner, _ := readFile(path) // a lock without a name is one as well
			return nil, cluster.Errorf(cluster.CodeConflict, "%s is being changed by %s", home, oneLine(string(owner))).
				WithHint("wait until that is done")
		}
	}
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// tryLock returns nil where another process holds the lock.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		// Who held it before may have removed it with the whole home.
		mine, err1 := f.Stat()
		there, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(mine, there) {
			return f, nil
		}
		err = unix.EWOULDBLOCK
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// readFile returns nil where there is none.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, mostFile))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// restore makes a file hold data, or not be there where that is nil. It is on the disk when restore returns.
func restore(path string, data []byte) error {
	if data == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove: %w", err)
		}
		return syncDir(filepath.Dir(path))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open folder: %w", err)
	}
	defer d.Close()                                                  //nolint:errcheck // only read
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) { // some file systems know no such thing
		return fmt.Errorf("write folder %s: %w", path, err)
	}
	return nil
}

// syncVersion has a version be on the disk, with its name: who copied it here may not have waited for that, and after a
// power cut current would lead to an empty binary.
func syncVersion(dir string) error {
	f, err := os.Open(filepath.Join(dir, "mlxctl"))
	if err != nil {
		return fmt.Errorf("open the binary: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", f.Name(), err)
	}
	for _, folder := range []string{dir, filepath.Dir(dir), filepath.Dir(filepath.Dir(dir))} {
		if err := syncDir(folder); err != nil {
			return err
		}
	}
	return nil
}

// flip makes the order's version the current one, once that is whole and on the disk.
func (s *session) flip(t *target) error {
	if err := syncVersion(s.path(t.current)); err != nil {
		return err
	}
	if err := s.checkVersion(); err != nil { // it may have been changed since
		return err
	}
	return pointTo(s.order.Home, t.current)
}

// pointTo makes the link current point to a folder, in one step; "" takes it away.
func pointTo(home, target string) error {
	link := filepath.Join(home, "current")
	if target == "" {
		return restore(link, nil)
	}
	tmp := filepath.Join(home, ".current.new")
	if err := restore(tmp, nil); err != nil {
		return err
	}
	err := os.Symlink(target, tmp)
	if err == nil {
		err = os.Rename(tmp, link)
	}
	if err != nil {
		return fmt.Errorf("point current to %s: %w", target, err)
	}
	return syncDir(home)
}

// pointsTo is where current points to; "" where it is not there.
func pointsTo(home string) string {
	target, err := os.Readlink(filepath.Join(home, "current"))
	if err != nil {
		return ""
	}
	return target
}

func encode(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return append(data, '\n'), nil
}
