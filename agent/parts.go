package agent

import (
	"github.com/keystead/keystead/agent/part"
	"github.com/keystead/keystead/svid/svidagent"
)

// Of this package, this file alone sees systems: their tables in the configuration, and their
// parts.

// Systems are the tables of systems in an agent's configuration.
type Systems struct {
	SVID svidagent.Config `toml:"svid"`
}

func defaultSystems() Systems {
	return Systems{SVID: svidagent.Config{Dir: svidagent.DefaultDir}}
}

// paths are those that may be relative to the configuration's file.
func (c *Systems) paths() []*string { return []*string{&c.SVID.Dir} }

// entries are what a new configuration sets.
func (c *Systems) entries() []entry { return []entry{{"svid", "dir", c.SVID.Dir}} }

// parts makes the agent's parts. What one needs of another comes by its constructor.
func (a *Agent) parts() []maker {
	var all []maker
	if a.cfg.SVID.Dir != "" {
		all = append(all, func(h part.Host) (part.Part, error) {
			return svidagent.New(h, svidagent.Options{Dir: a.cfg.SVID.Dir, Host: a.cfg.Host, Public: a.self.public, Key: a.self.pem, Log: a.log})
		})
	}
	return all
}
