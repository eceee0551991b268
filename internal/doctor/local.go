package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
)

const (
	gib = 1 << 30
	// little is what a model of usual size needs on disk; tooLittle is less than environment and logs need.
	little    = 20 * gib
	tooLittle = 2 * gib
	// shifted is a clock that makes times in logs misleading; wrong is one that tokens and certificates do not survive
	// for long.
	shifted = 5 * time.Second
	wrong   = 5 * time.Minute
)

// Folder looks at a folder that only its owner may write to, and that only its owner may read where it is private: then
// so must every file in it be.
func Folder(path string, private bool) []plan.Finding {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return one(skip("%s is not there yet; `mlxctl up` makes it", path))
	}
	if err != nil {
		return one(fail("", "%v", err))
	}
	if !info.IsDir() {
		return one(fail("mv "+quote(path)+" "+quote(path+".old"), "%s is not a folder", path))
	}
	others := fs.FileMode(0o022)
	if private {
		others = 0o077
	}
	if mode := info.Mode().Perm(); mode&others != 0 {
		return one(fail(fmt.Sprintf("chmod go-rwx %s", quote(path)), "%s is open to others (%v)", path, mode))
	}
	if err := unix.Access(path, unix.W_OK); err != nil {
		return one(fail("sudo chown -R \"$(id -un)\" "+quote(path), "%s cannot be written to: %v", path, err))
	}
	if private {
		if open := openFile(path); open != "" {
			return one(fail("chmod -R go-rwx "+quote(path), "%s is open to others", open))
		}
	}
	return one(ok("%s", path))
}

// openFile finds a file that others than its owner may read.
func openFile(dir string) string {
	var found string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
			found = path
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		return "" // went away meanwhile: files are replaced as a whole
	}
	return found
}

// Disk says how much room a folder has; where it is not there yet, the folder that it will be in.
func Disk(path string) []plan.Finding {
	for path != filepath.Dir(path) {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		path = filepath.Dir(path)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return one(fail("", "cannot ask how much room %s has: %v", path, err))
	}
	return one(room(path, int64(s.Bavail)*int64(s.Bsize))) //nolint:unconvert // the types differ between systems
}

func room(path string, free int64) plan.Finding {
	const fix = "du -sh ~/.cache/huggingface/hub/* | sort -h   # models that are no longer wanted can go"
	switch {
	case free < tooLittle:
		return fail(fix, "%s has %.1f GiB free; workers cannot start with so little", path, float64(free)/gib)
	case free < little:
		return warn(fix, "%s has %.1f GiB free; few models fit", path, float64(free)/gib)
	default:
		return ok("%.0f GiB free", float64(free)/gib)
	}
}

// Clock compares another machine's time with this one's; its answer was on its way between asked and answered.
func Clock(there, asked, answered time.Time) plan.Finding {
	off := there.Sub(asked)
	switch { // within the time that the question took nothing is known
	case there.Before(asked):
	case there.After(answered):
		off = there.Sub(answered)
	default:
		off = 0
	}
	const fix = "sudo sntp -sS time.apple.com   # or System Settings → General → Date & Time → Set time and date automatically"
	switch d := off.Abs(); {
	case d >= wrong:
		return fail(fix, "its clock is %v %s", d.Round(time.Second), side(off))
	case d >= shifted:
		return warn(fix, "its clock is %v %s", d.Round(time.Second), side(off))
	default:
		return ok("agrees, measured to within %v", max(answered.Sub(asked), d).Round(time.Millisecond))
	}
}

func side(off time.Duration) string {
	if off < 0 {
		return "behind"
	}
	return "ahead"
}
