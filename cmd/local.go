package cmd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/unit"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/service"
)

// Where the services of one machine listen unless told otherwise; the next free port is taken when one of these is not.
const (
	defaultHTTPAddr = "127.0.0.1:8640"
	defaultNATSAddr = "127.0.0.1:8660"
	// defaultEnrolAddr is on the host of the NATS address.
	defaultEnrolAddr = "127.0.0.1:8662"
	portTries        = 100
)

// localSettings is what the background services of a home run with. `up` decides it once and writes it down, so that
// a restart by the keeper, which knows no flags and another environment, runs with the same.
type localSettings struct {
	Name     string `json:"name"`
	LogLevel string `json:"log_level"`
	HTTPAddr string `json:"http_addr"`
	NATSAddr string `json:"nats_addr,omitempty"` // of the embedded server
	// EnrolAddr is where nodes join by token, on the host of NATSAddr; nothing listens there while no token is good.
	EnrolAddr string `json:"enrol_addr,omitempty"`

	NATSURL        string `json:"nats_url,omitempty"` // instead of the embedded server
	NATSCreds      string `json:"nats_creds,omitempty"`
	NATSCA         string `json:"nats_ca,omitempty"`
	NATSServerName string `json:"nats_server_name,omitempty"`

	// Python is the user's own interpreter for workers, by MLXCTL_PYTHON; another one, or none, is another setting.
	Python string `json:"python,omitempty"`

	Deadlines config.Deadlines `json:"deadlines"`
	Share     config.Share     `json:"share"`
	Models    config.Models    `json:"models"`
}

func localPath(home string) string { return filepath.Join(home, "local.json") }

// readLocal returns nil where the services were never set up.
func readLocal(home string) (*localSettings, string, error) {
	data, err := os.ReadFile(localPath(home))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("read settings of the services: %w", err)
	}
	var l localSettings
	if err := json.Unmarshal(data, &l); err != nil {
		return nil, "", cluster.Errorf(cluster.CodeInvalid, "%s is damaged: %v", localPath(home), err).
			WithHint("`mlxctl down --purge`, then `mlxctl up`, makes it anew")
	}
	sum := sha256.Sum256(data)
	return &l, hex.EncodeToString(sum[:8]), nil
}

// isUnmade says that no services were ever set up in a home.
func isUnmade(home string) bool {
	_, err := os.Stat(localPath(home))
	return errors.Is(err, fs.ErrNotExist)
}

func (l *localSettings) write(home string) error {
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("encode settings of the services: %w", err)
	}
	return config.WriteFile(localPath(home), append(data, '\n'))
}

// planServices decides what the services run with: flags and settings, then what they ran with before, then defaults. running
// says that they run now, so that their ports are in use by themselves.
func planServices(cfg *config.Config, before *localSettings, running bool) (*localSettings, error) {
	l := &localSettings{
		Name: cfg.Name, LogLevel: cfg.LogLevel, Deadlines: cfg.Deadlines, Share: cfg.Share, Models: cfg.Models,
		NATSURL: cfg.NATSURL, NATSCreds: cfg.NATSCreds, NATSCA: cfg.NATSCA, NATSServerName: cfg.NATSServerName,
	}
	if before == nil {
		before, running = &localSettings{}, false
	}
	if err := cfg.Models.CheckFolders(); err != nil {
		return nil, err
	}
	if l.Name == "" {
		l.Name = before.Name
	}
	if l.Name == "" {
		l.Name = hostName()
	}
	var taken []net.Listener
	defer func() {
		for _, t := range taken {
			_ = t.Close() // held only so that two services do not get one port
		}
	}()
	choose := func(given, was, fallback string) (string, error) {
		addr, listener, err := choosePort(given, was, fallback, running)
		if listener != nil {
			taken = append(taken, listener)
		}
		return addr, err
	}
	var err error
	if l.HTTPAddr, err = choose(cfg.HTTPAddr, before.HTTPAddr, defaultHTTPAddr); err != nil {
		return nil, err
	}
	if l.NATSURL == "" {
		if l.NATSAddr, err = choose(cfg.NATSAddr, before.NATSAddr, defaultNATSAddr); err != nil {
			return nil, err
		}
		l.EnrolAddr, err = choose("", onHostOf(before.EnrolAddr, l.NATSAddr), onHostOf(defaultEnrolAddr, l.NATSAddr))
	}
	return l, err
}

// onHostOf is addr with the host of another one; empty where there is none.
func onHostOf(addr, other string) string {
	_, port, err := net.SplitHostPort(addr)
	host, _, otherErr := net.SplitHostPort(other)
	if err != nil || otherErr != nil {
		return ""
	}
	return net.JoinHostPort(host, port)
}

// choosePort finds an address to listen on and holds it for now.
func choosePort(given, was, fallback string, running bool) (string, net.Listener, error) {
	if running && was != "" && (given == "" || given == was || leavesPortTo(given, was)) {
		return was, nil, nil
	}
	if given != "" {
		l, err := listen(given)
		if err != nil {
			return "", nil, portError(given, err)
		}
		return keepHost(given, l), l, nil
	}
	if was == "" {
		was = fallback
	}
	host, port, err := net.SplitHostPort(was)
	if err != nil {
		return "", nil, fmt.Errorf("split address: %w", err)
	}
	first, err := strconv.Atoi(port)
	if err != nil {
		return "", nil, fmt.Errorf("read port: %w", err)
	}
	for i := range portTries {
		addr := net.JoinHostPort(host, strconv.Itoa(first+i))
		l, err := listen(addr)
		if err == nil {
			return addr, l, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return "", nil, portError(addr, err)
		}
	}
	return "", nil, cluster.Errorf(cluster.CodeConflict, "ports %d to %d on %s are all in use", first, first+portTries-1, host)
}

// leavesPortTo says whether given asks for any port on the host of was.
func leavesPortTo(given, was string) bool {
	host, port, err := net.SplitHostPort(given)
	wasHost, _, wasErr := net.SplitHostPort(was)
	return err == nil && wasErr == nil && port == "0" && host == wasHost
}

func listen(addr string) (net.Listener, error) {
	return net.Listen("tcp", addr) //nolint:noctx // a local bind does not wait
}

// keepHost fills in the port that the system chose for port 0.
func keepHost(given string, l net.Listener) string {
	host, port, err := net.SplitHostPort(given)
	if err != nil || port != "0" {
		return given
	}
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return net.JoinHostPort(host, port)
}

// portError says which address cannot be had and who to ask.
func portError(addr string, err error) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return cluster.Errorf(cluster.CodeConflict, "cannot listen on %s: %v", addr, errors.Unwrap(errors.Unwrap(err)))
	}
	_, port, _ := net.SplitHostPort(addr)
	return cluster.Errorf(cluster.CodeConflict, "%s is in use by another process", addr).
		WithHint("`lsof -nP -iTCP:%s -sTCP:LISTEN` says whose it is; or choose another address", port)
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "local"
	}
	return name
}

// serviceVersions is the folder of a home that holds the binaries which its services run.
const serviceVersions = "services"

// services describes the background services of a home to their keeper. digest is of the settings they run with.
func (d *deps) services(home, digest string, log *slog.Logger) service.Options {
	if isNode(home) {
		return unit.KeeperOptions(home, log)
	}
	listenAddr := ""
	if l, _, err := readLocal(home); err == nil && l != nil { // whoever needs the settings says what is wrong with them
		listenAddr = l.HTTPAddr
	}
	return service.Options{
		Home: home, Exe: d.exe, Versions: filepath.Join(home, serviceVersions),
		Arg0: "mlxctl", KeepArgs: []string{"keep"}, Listen: listenAddr,
		Children: []service.Child{{Name: "controller", Args: []string{"controller"}, Listens: true}, {Name: "agent", Args: []string{"agent"}}},
		Env:      d.absoluteDirs(),
		Version:  strings.Join([]string{d.build.Version, d.build.Commit, stampOf(d.exe)}, " "), Settings: digest, Log: log,
	}
}

// absoluteDirs are the folders of this home as variables: services run in another working folder than who starts them.
func (d *deps) absoluteDirs() []string {
	var out []string
	dirs, err := d.dirs()
	if err != nil {
		return nil // whoever needs them says so
	}
	for _, v := range [][2]string{{"MLXCTL_HOME", dirs.Home}, {"MLXCTL_CACHE", dirs.Cache}} {
		if given, ok := d.env(v[0]); ok && given != "" {
			out = append(out, v[0]+"="+v[1])
		}
	}
	return out
}

// stampOf tells a binary from another one with the same version, as developers make them.
func stampOf(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return strconv.FormatInt(info.Size(), 36) + strconv.FormatInt(info.ModTime().UnixNano(), 36)
}

// acquire makes starting and stopping the services of a home one at a time, and says so when it has to wait.
func (d *deps) acquire(ctx context.Context, home string, progress *iostreams.Progress) (func(), error) {
	soon, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	o := d.services(home, "", d.log())
	release, err := service.Acquire(soon, o)
	if err == nil || soon.Err() == nil {
		return release, err
	}
	progress.Step("waiting for another mlxctl that starts or stops the services")
	return service.Acquire(ctx, o)
}

// controllerInfo is what a ready controller says of itself in <home>/run/controller.json.
type controllerInfo struct {
	PID     int       `json:"pid"`
	Cluster string    `json:"cluster"`
	Version string    `json:"version"`
	HTTP    string    `json:"http"` // base URL of the gateway
	NATS    []string  `json:"nats"`
	Since   time.Time `json:"since"`
}

func infoPath(home string) string { return filepath.Join(home, "run", "controller.json") }

// readInfo returns nil where no controller of this home is ready; a file that a dead one left does not count.
func (d *deps) readInfo(home string) (*controllerInfo, error) {
	data, err := os.ReadFile(infoPath(home))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read controller's addresses: %w", err)
	}
	var info controllerInfo
	if json.Unmarshal(data, &info) != nil {
		return nil, nil
	}
	s, err := service.Read(d.services(home, "", nil))
	if err != nil {
		return nil, err
	}
	for _, c := range s.Children {
		if s.Running && c.Name == "controller" && c.PID == info.PID {
			return &info, nil
		}
	}
	return nil, nil
}

// failure is what a service that cannot start leaves for `up` to tell, in <home>/run/<name>.failed.
func failurePath(home, name string) string { return filepath.Join(home, "run", name+".failed") }

func writeFailure(home, name string, err error) error {
	data, marshalErr := json.Marshal(cluster.AsError(err))
	if marshalErr != nil {
		return fmt.Errorf("encode failure: %w", marshalErr)
	}
	return config.WriteFile(failurePath(home, name), data)
}

// readFailure returns why a service could not start, if it could not since a moment.
func readFailure(home, name string, since time.Time) error {
	path := failurePath(home, name)
	info, err := os.Stat(path)
	if err != nil || info.ModTime().Before(since) {
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil // it goes away when the service comes up
	}
	var e cluster.Error
	if json.Unmarshal(data, &e) != nil || e.Message == "" {
		return nil
	}
	return &e
}

// isLocal says that the context in use is this home's own cluster, or one of another home on this machine.
func isLocal(cfg *config.Config) bool { return cfg.NATSURL == "" || cfg.Current().Home != "" }

// notRunning is the error of a command that needs a cluster where there is none.
func notRunning(home string) error {
	s := "no cluster is running on this machine"
	if _, err := os.Stat(filepath.Join(home, "run", "desired")); err == nil {
		return cluster.Errorf(cluster.CodeUnreachable, "the controller of this machine is not ready").
			WithHint("wait a moment; `mlxctl logs controller` says what it does")
	}
	return cluster.Errorf(cluster.CodeUnreachable, "%s", s).WithHint("start one with `mlxctl up`, or `mlxctl up --local` for this machine alone")
}
