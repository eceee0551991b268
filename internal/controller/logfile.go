package controller

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// followEvery is how often a log that is followed is looked at: files give no other notice that all systems have.
const followEvery = 200 * time.Millisecond

// logFile reads a growing file by lines, through its rotation.
type logFile struct {
	path   string
	read   os.FileInfo // the file that offset belongs to; nil before the first
	offset int64
}

// show gives the last lines of a log, all for 0, and then, following, those that are added until ctx ends.
func (l *logFile) show(ctx context.Context, tail int, follow bool, line func(string) error) error {
	var last []string
	err := l.more(func(s string) error {
		last = append(last, s)
		if tail > 0 && len(last) > 2*tail {
			last = append(last[:0], last[len(last)-tail:]...)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) && !follow {
		return cluster.Errorf(cluster.CodeInvalid, "there is no log at %s", l.path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if tail > 0 {
		last = last[max(0, len(last)-tail):]
	}
	for _, s := range last {
		if err := line(s); err != nil {
			return err
		}
	}
	if !follow {
		return nil
	}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		if err := l.more(line); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
}

// more gives the whole lines that were added since the last call.
func (l *logFile) more(line func(string) error) error {
	f, err := os.Open(l.path)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("look at log: %w", err)
	}
	if l.read != nil && (!os.SameFile(l.read, info) || info.Size() < l.offset) {
		l.offset = 0
	}
	l.read = info
	if _, err := f.Seek(l.offset, io.SeekStart); err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	r := bufio.NewReader(f)
	for {
		s, err := r.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return nil // a part of a line is read again when it is whole
		}
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		l.offset += int64(len(s))
		if err := line(strings.TrimSuffix(s, "\n")); err != nil {
			return err
		}
	}
}
