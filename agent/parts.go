package agent

import (
	"crypto/rand"

	"github.com/keystead/keystead/agent/part"
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/app/appagent"
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
	all := []maker{func(h part.Host) (part.Part, error) {
		return appagent.New(h, appagent.Options{Host: a.cfg.Host, Vouch: a.vouch, Log: a.log}), nil
	}}
	if a.cfg.SVID.Dir != "" {
		all = append(all, func(h part.Host) (part.Part, error) {
			return svidagent.New(h, svidagent.Options{Dir: a.cfg.SVID.Dir, Host: a.cfg.Host, Log: a.log})
		})
	}
	return all
}

// vouch signs what the agent says of a process, with the subject key of the lease. Domain, host,
// lease and boot are the agent's own words, whatever a part puts there.
func (a *Agent) vouch(s app.Statement) ([]byte, error) {
	a.mu.Lock()
	lease, err := a.core.Lease(a.now())
	a.mu.Unlock()
	if err != nil {
		return nil, err
	}
	s.Domain, s.Host, s.Lease, s.Boot = a.cfg.Domain, lease.Host, lease.Version, a.boot
	return s.Sign(rand.Reader, a.self.signer)
}
