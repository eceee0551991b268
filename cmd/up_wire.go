package cmd

import (
	"path/filepath"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// knownHostsName is the file of SSH host keys that were agreed to, in the home.
const knownHostsName = "known_hosts"

func rosterPath(home string) string { return filepath.Join(home, "roster.json") }

// wiredParts joins discovery, SSH and the list of admitted nodes to the commands.
func (d *deps) wiredParts() parts {
	return parts{
		finder: func() macFinder { return nil },
		installer: func(installerOptions) (installer, error) {
			return nil, cluster.Errorf(cluster.CodeUnsupported, "this build cannot reach other machines")
		},
		roster:   func(string) admitted { return noNodes{} },
		services: startServices,
	}
}

// noNodes is a list of admitted nodes that stays empty.
type noNodes struct{}

func (noNodes) List() ([]roster.Node, error) { return nil, nil }

func (noNodes) Find(name string) (roster.Node, error) {
	return roster.Node{}, &noSuchError{cluster.Errorf(cluster.CodeNoNode, "no node %q", name)}
}

func (noNodes) Put(roster.Node) error { return nil }

func (noNodes) Remove(cluster.NodeID) error { return nil }
