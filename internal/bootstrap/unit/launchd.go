package unit

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"text/template"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Exit codes of launchctl.
const (
	launchdRefused  = 5   // loaded already, or a file that it does not like
	launchdEnding   = 37  // a former one still ends
	launchdNoDomain = 125 // nobody is logged in there
)

// plist is the file of a service. Interactive keeps macOS from slowing the agent down as it does with background work.
const plist = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>Label</key>
	<string>{{x .Label}}</string>
	<key>ProgramArguments</key>
	<array>
		<string>{{x .Exe}}</string>
		<string>agent</string>
	</array>
{{- if .User}}
	<key>UserName</key>
	<string>{{x .User}}</string>
{{- else}}
	<key>LimitLoadToSessionType</key>
	<array>
		<string>Aqua</string>
		<string>Background</string>
	</array>
{{- end}}
	<key>EnvironmentVariables</key>
	<dict>
{{- range .Environment}}
		<key>{{x .Name}}</key>
		<string>{{x .Value}}</string>
{{- end}}
	</dict>
	<key>RunAtLoad</key>
	<true/>
	<key>KeepAlive</key>
	<true/>
	<key>ThrottleInterval</key>
	<integer>5</integer>
	<key>ProcessType</key>
	<string>Interactive</string>
	<key>ExitTimeOut</key>
	<integer>60</integer>
	<key>SoftResourceLimits</key>
	<dict>
		<key>NumberOfFiles</key>
		<integer>65536</integer>
	</dict>
	<key>StandardOutPath</key>
	<string>{{x .Log}}</string>
	<key>StandardErrorPath</key>
	<string>{{x .Log}}</string>
</dict>
</plist>
`

// launchd is both kinds of services of macOS.
type launchd struct {
	Spec
	kind    plan.UnitKind
	path    string
	domains []string // the first that there is takes it
}

var _ Driver = (*launchd)(nil)

func newLaunchDaemon(s Spec) *launchd {
	return &launchd{s, plan.UnitLaunchDaemon, filepath.Join(s.daemonDir, s.label()+".plist"), []string{"system"}}
}

func newLaunchAgent(s Spec) *launchd {
	uid := strconv.Itoa(s.UID)
	path := filepath.Join(s.UserHome, "Library", "LaunchAgents", s.label()+".plist")
	return &launchd{s, plan.UnitLaunchAgent, path, []string{"gui/" + uid, "user/" + uid}}
}

func (l *launchd) Kind() plan.UnitKind { return l.kind }

func (l *launchd) isDaemon() bool { return l.kind == plan.UnitLaunchDaemon }

func (l *launchd) available(ctx context.Context) error {
	if l.goos != "darwin" {
		return cluster.Errorf(cluster.CodeUnsupported, "this is no macOS")
	}
	if l.isDaemon() {
		return l.mayRoot(ctx)
	}
	return nil
}

func (l *launchd) Text() ([]byte, error) {
	t, err := template.New("plist").Funcs(template.FuncMap{"x": escape}).Parse(plist)
	if err != nil {
		return nil, fmt.Errorf("read template of unit: %w", err)
	}
	data := struct {
		Label, Exe, User, Log string
		Environment           []variable
	}{l.label(), l.exe(), "", l.Log(), l.environment()}
	if l.isDaemon() {
		data.User = l.User
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return nil, fmt.Errorf("write unit: %w", err)
	}
	return b.Bytes(), nil
}

func escape(text string) (string, error) {
	var b strings.Builder
	err := xml.EscapeText(&b, []byte(text))
	return b.String(), err
}

func (l *launchd) Installed() ([]byte, error) { return readFile(l.path) }

func (l *launchd) Install(ctx context.Context, text []byte) error {
	if !l.isDaemon() {
		return writeFile(l.path, text, 0o644)
	}
	// launchd takes a file of root alone, and at boot all whose names end in .plist.
	asRoot := func(stdin string, args ...string) error {
		_, err := l.rootWith(ctx, stdin, args...)
		return err
	}
	if err := put(asRoot, l.path, "0644", "root:wheel", text); err != nil {
		return fmt.Errorf("install unit: %w", err)
	}
	return nil
}

// control runs launchctl, as the superuser where that is needed.
func (l *launchd) control(ctx context.Context, args ...string) error {
	args = append([]string{"launchctl"}, args...)
	if l.isDaemon() {
		return l.root(ctx, args...)
	}
	_, err := command(ctx, "", args...)
	return err
}

// loaded finds the domain that has the service; "" where none has.
func (l *launchd) loaded(ctx context.Context) (domain, text string) {
	for _, d := range l.domains {
		if out, err := command(ctx, "", "launchctl", "print", d+"/"+l.label()); err == nil {
			return d, out
		}
	}
	return "", ""
}

func (l *launchd) Start(ctx context.Context) error {
	if err := l.bootout(ctx); err != nil { // only so is a changed file read
		return err
	}
	var err error
	for _, d := range l.domains {
		service := d + "/" + l.label()
		if err = l.control(ctx, "enable", service); err == nil { // a disabled one is not taken
			err = l.bootstrap(ctx, d)
		}
		if codeOf(err) == launchdNoDomain {
			continue
		}
		if err == nil {
			err = l.control(ctx, "kickstart", service)
		}
		break
	}
	return l.explain(err)
}

// bootstrap waits for a former one to end.
func (l *launchd) bootstrap(ctx context.Context, domain string) error {
	var last error
	err := await(ctx, startWait, "launchd did not take the service", func() (bool, error) {
		last = l.control(ctx, "bootstrap", domain, l.path)
		if codeOf(last) == launchdEnding {
			return false, nil
		}
		return last == nil, last
	})
	if last != nil {
		return last
	}
	return err
}

func (l *launchd) explain(err error) error {
	if err == nil {
		return nil
	}
	e := cluster.Errorf(cluster.CodeOf(err), "start the service: %v", err)
	switch codeOf(err) {
	case launchdRefused:
		return e.WithHint("launchd does not like %s, or has it already: `plutil -lint %s`, `launchctl print-disabled %s`", l.path, l.path, l.domains[0])
	case launchdEnding:
		return e.WithHint("the former service still ends; try again in a minute")
	case launchdNoDomain:
		return e.WithHint("nobody is logged in on that Mac: log in there once, or allow sudo for a service that needs no login")
	}
	return e
}

func (l *launchd) bootout(ctx context.Context) error {
	for _, d := range l.domains {
		service := d + "/" + l.label()
		if _, err := command(ctx, "", "launchctl", "print", service); err != nil {
			continue
		}
		// It ends in its own time, also where it says that it ends already: whether it did is seen by its absence.
		ending := l.control(ctx, "bootout", service)
		if cluster.CodeOf(ending) == cluster.CodeUnauthorized {
			return ending
		}
		err := await(ctx, endWait, "the service did not end", func() (bool, error) {
			_, err := command(ctx, "", "launchctl", "print", service)
			return err != nil, nil
		})
		if err != nil {
			return errors.Join(ending, err)
		}
	}
	return nil
}

func (l *launchd) Stop(ctx context.Context) error {
	if d, _ := l.loaded(ctx); d != "" { // else it would be back after the next start of the machine
		if err := l.control(ctx, "disable", d+"/"+l.label()); err != nil {
			return fmt.Errorf("disable unit: %w", err)
		}
	}
	return l.bootout(ctx)
}

func (l *launchd) Remove(ctx context.Context) error {
	if err := l.bootout(ctx); err != nil {
		return err
	}
	if text, err := l.Installed(); text == nil && err == nil {
		return nil
	}
	l.enable(ctx)
	if !l.isDaemon() {
		return removeFile(l.path)
	}
	if err := l.root(ctx, "rm", "-f", l.path); err != nil {
		return fmt.Errorf("remove unit: %w", err)
	}
	return nil
}

// enable takes back what Stop told launchd, which keeps it beyond the file.
func (l *launchd) enable(ctx context.Context) {
	disabled := regexp.MustCompile(`"` + regexp.QuoteMeta(l.label()) + `" => (disabled|true)\b`)
	for _, d := range l.domains {
		out, err := command(ctx, "", "launchctl", "print-disabled", d)
		if err == nil && disabled.MatchString(out) {
			_ = l.control(ctx, "enable", d+"/"+l.label()) // of a service that is gone it says nothing that matters
		}
	}
}

var (
	launchdPID  = regexp.MustCompile(`(?m)^\s*pid = (\d+)$`)
	launchdRuns = regexp.MustCompile(`(?m)^\s*runs = (\d+)$`) // since bootstrap
)

func (l *launchd) Status(ctx context.Context) (Status, error) {
	d, text := l.loaded(ctx)
	s := Status{Loaded: d != "", Wanted: d != ""}
	if m := launchdPID.FindStringSubmatch(text); m != nil {
		s.PID, _ = strconv.Atoi(m[1]) // it is all digits
	}
	s.Running = s.PID > 0
	if m := launchdRuns.FindStringSubmatch(text); m != nil {
		s.Ended, _ = strconv.Atoi(m[1]) // so is this
		if s.Running {
			s.Ended = max(0, s.Ended-1)
		}
	}
	return s, nil
}
