package mlxbridge

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	installLines = 40              // kept of what an installer says
	commandWait  = 5 * time.Second // for the pipes of a command that was killed
	recordFields = 3
)

// fill makes the environment in dir, but compiles nothing: most of it is never imported, and the check that follows
// imports, and so compiles, what is. uv does it where it is installed, else the interpreter's own venv and pip. What the
// user's environment says to them about indexes, mirrors and proxies holds.
func (e *Environment) fill(ctx context.Context, dir string, base interpreter, progress func(string)) error {
	requirements := filepath.Join(e.root, ".new-requirements.txt")
	if err := os.WriteFile(requirements, []byte(e.lock), 0o600); err != nil {
		return cluster.Errorf(cluster.CodeInternal, "write list of packages: %v", err)
	}
	defer func() { _ = os.Remove(requirements) }()
	progress("installing the Python environment, once: about 100 MB")
	create := []string{base.Path, "-m", "venv", dir}
	fill := []string{
		pythonOf(dir), "-m", "pip", "install", "--require-hashes", "--only-binary", ":all:", "--no-input",
		"--no-compile", "--progress-bar", "off", "--disable-pip-version-check", "-r", requirements,
	}
	if uv := findUV(); uv != "" {
		create = []string{uv, "venv", "--no-project", "--no-config", "--python", base.Path, dir}
		fill = []string{
			uv, "pip", "sync", "--require-hashes", "--only-binary", ":all:", "--python", pythonOf(dir), requirements,
		}
	} else if !base.HasVenv {
		return cluster.Errorf(cluster.CodeInternal, "%s cannot make environments: it has no ensurepip", base.Path).
			WithHint("install uv, or the package python3-venv")
	}
	if e.o.Wheels != "" {
		fill = append(fill, "--no-index", "--find-links", e.o.Wheels)
	}
	env := mergeEnv(nil, map[string]string{"PYTHONNOUSERSITE": "1"},
		"PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIREMENT", "VIRTUAL_ENV")
	for _, command := range [][]string{create, fill} {
		out, err := runQuietly(ctx, env, tell(progress), command[0], command[1:]...)
		if ctx.Err() != nil {
			return contextError(ctx)
		}
		if err != nil {
			e.o.Log.ErrorContext(ctx, "python environment cannot be installed", "command", strings.Join(command, " "), "out", out)
			return installError(filepath.Base(command[0]), out, err)
		}
	}
	return nil
}

func installError(tool, out string, err error) error {
	e := cluster.Errorf(cluster.CodeInternal, "install Python environment: %s: %s", tool, lastError(out, err.Error()))
	switch text := strings.ToLower(out); {
	case strings.Contains(text, "no space left"):
		return e.WithHint("it needs about 600 MB of disk")
	case strings.Contains(text, "do not match the hashes"):
		return e.WithHint("the package index gave other files than those that mlxctl was released with")
	default:
		return e.WithHint("it needs the package index of PyPI or a mirror (PIP_INDEX_URL), or MLXCTL_WHEELS=<folder of wheels>")
	}
}

// lastError returns the last line that calls itself an error, else the last line.
func lastError(out, otherwise string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for _, line := range slices.Backward(lines) {
		line = strings.TrimSpace(line)
		if rest, ok := cutPrefixFold(line, "error:"); ok && rest != "" {
			return lastLine(rest, otherwise)
		}
	}
	return lastLine(out, otherwise)
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return strings.TrimSpace(s[len(prefix):]), true
}

// downloading matches what pip and uv say when a download begins.
var downloading = regexp.MustCompile(`^\s*Downloading (\S+)(?: \(([^)]+)\))?`)

// tell turns an installer's lines into progress.
func tell(progress func(string)) func(string) {
	return func(line string) {
		if m := downloading.FindStringSubmatch(line); m != nil {
			name, _, _ := strings.Cut(filepath.Base(m[1]), "-")
			progress(strings.TrimSpace(fmt.Sprintf("installing the Python environment: %s %s", name, m[2])))
		} else if strings.HasPrefix(strings.TrimSpace(line), "Installing collected packages") {
			progress("installing the Python environment: unpacking")
		}
	}
}

// runQuietly runs a command to its end, or kills its whole group when ctx ends. It returns the last lines of what it
// said, and calls each, which may be nil, with every line.
func runQuietly(ctx context.Context, env []string, each func(string), name string, args ...string) (string, error) {
	// On Linux the command ends with the thread that started it, so that it does not outlive this process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	cmd.SysProcAttr = processAttributes()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = commandWait
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	var lines []string
	var reading sync.WaitGroup
	reading.Go(func() {
		scan := bufio.NewScanner(out)
		for scan.Scan() {
			lines = append(lines, scan.Text())
			lines = lines[max(0, len(lines)-installLines):]
			if each != nil {
				each(scan.Text())
			}
		}
		_, _ = io.Copy(io.Discard, out) // after a line too long to scan
	})
	err := cmd.Run()
	_ = in.Close()
	reading.Wait()
	return strings.Join(lines, "\n"), err
}

// checkRecord checks the files of one package. A line of its list is path,hash,size; files without a size may change.
func checkRecord(list string) error {
	data, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	r := csv.NewReader(bytes.NewReader(data))
	r.FieldsPerRecord = -1
	lines, err := r.ReadAll()
	if err != nil {
		return fmt.Errorf("read %s: %w", list, err)
	}
	root := filepath.Dir(filepath.Dir(list))
	for _, line := range lines {
		if len(line) < recordFields || line[2] == "" || strings.HasPrefix(line[0], "../") {
			continue // scripts are written with the path of the environment in them
		}
		want, err := strconv.ParseInt(line[2], 10, 64)
		if err != nil {
			continue
		}
		info, err := os.Stat(filepath.Join(root, filepath.FromSlash(line[0])))
		if err != nil {
			return fmt.Errorf("%s is missing", line[0])
		}
		if info.Size() != want {
			return fmt.Errorf("%s has %d bytes instead of %d", line[0], info.Size(), want)
		}
	}
	return nil
}
