package cmd

import (
	"context"
	"fmt"
	"strings"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/sighting"
	"github.com/mlxctl/mlxctl/internal/service"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// preview judges without having changed anything: the services may not even run.
func (u *upRun) preview(ctx context.Context, seen sighting.Found) ([]*planItem, error) {
	home := u.cfg.Dirs.Home
	own := &planItem{Name: hostName(), Node: localNode(home), Address: "this machine", Source: bootstrap.SourceLocal, KeyState: "-", State: "down", What: whatStart, isSelf: true}
	j, err := u.judge()
	if err != nil {
		return nil, err
	}
	if info, err := u.readInfo(home); err == nil && info != nil {
		own.State, own.What = "ready", whatNothing
		soon, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		if c, err := u.connect(soon, u.cfg); err == nil {
			j.snapshot, _ = c.Snapshot(soon) // none is as good as one in which nothing is ready
			c.Close()
		}
		if err := u.previewSettings(home, own, j); err != nil {
			return nil, err
		}
		if own.What == whatNothing {
			if err := u.previewVersion(home, own); err != nil {
				return nil, err
			}
		}
	}
	return append([]*planItem{own}, j.items(seen)...), nil
}

func (u *upRun) previewSettings(home string, own *planItem, j *judge) error {
	l, _, err := readLocal(home)
	if err != nil || l == nil {
		return err
	}
	if open := openToNetwork(l); open.NATSAddr != l.NATSAddr {
		own.What, own.Reason = whatStart, fmt.Sprintf("again, with the bus on %s in place of %s", open.NATSAddr, l.NATSAddr)
		l = open
	}
	authority, err := trust.Open(trustDir(home))
	if err != nil {
		return err
	}
	l.Models = u.cfg.Models
	settings, err := nodeSettings(authority, l)
	j.digest = settingsDigest(settings)
	return err
}

// previewVersion says that the services of this machine run another version than this one.
func (u *upRun) previewVersion(home string, own *planItem) error {
	o := u.services(home, "", nil)
	status, err := service.Read(o)
	if err != nil {
		return err
	}
	if was := runsOther(status, o); was != "" {
		own.What, own.Reason = versionChange(was, u.build.Version, was, u.build.Version)
	}
	return nil
}

// runsOther is the version that services run where that is not the wanted one, else empty.
func runsOther(status service.Status, wanted service.Options) string {
	if !status.Running || status.Version == wanted.Version {
		return ""
	}
	was, _, _ := strings.Cut(status.Version, " ")
	return first(was, "another version")
}
