package node

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/keystead/keystead/internal/conf"
)

const someDomain = "domain = \"sha256:0000000000000000000000000000000000000000000000000000000000000001\"\n"

// TestExampleConfig holds the manual to the code: it parses, gives the defaults,
// and has every field, each with a comment that says who is trusted.
func TestExampleConfig(t *testing.T) {
	c, err := ParseConfig([]byte(ExampleConfig))
	if err != nil {
		t.Fatal(err)
	}
	def := DefaultConfig()
	def.Domain, def.API.Clients, def.API.Writers = c.Domain, c.API.Clients, c.API.Writers
	if !reflect.DeepEqual(c, def) {
		t.Errorf("the example's values are not the defaults:\n%+v\n%+v", c, def)
	}
	for _, gap := range conf.Gaps(ExampleConfig, Config{}) {
		t.Error(gap)
	}
}

func TestConfigIsStrict(t *testing.T) {
	for _, tc := range []struct {
		text, want string
		line       int
	}{
		{"dir = \"x\"\nlisten = \":1\"\n" + someDomain, "listen is not a field", 2},
		{someDomain + "[api]\nlisten = \"127.0.0.1:1\"\nmax-inflight = 3\n", "api.max-inflight is not a field", 4},
		{"dir = 4\n" + someDomain, "", 1},
		{someDomain + "dir = \"a\"\ndir = \"b\"\n", "", 3},
		{someDomain + "join = [\"127.0.0.1:7200\"]\n", "join is not a field", 2}, // contacts are in domain.json
		{"domain = \"abc\"\n", "", 1},
		{"dir = \"x\"\n", "domain must be set", 0},
		{someDomain + "[api]\nlisten = \"0.0.0.0:1\"\nplain = true\n", "loopback", 0},
		{someDomain + "[api]\nmax-in-flight = 0\n", "max-in-flight must be", 0},
		{someDomain + "[api]\nmax-connections = 0\n", "max-connections must be", 0},
		{someDomain + "[api]\nmax-connections-per-address = 0\n", "max-connections-per-address must be", 0},
		{someDomain + "[api]\nmax-rate = -1\n", "max-rate must be", 0},
		{someDomain + "[api]\ntimeout-ms = 1\n", "timeout-ms must be", 0},
		{someDomain + "[store]\ncache-mib = 0\n", "cache-mib must be", 0},
		{someDomain + "[evidence]\nbundle-mib = 17\n", "bundle-mib must be", 0},
		{someDomain + "[evidence]\nmachine-mib = 8\n", "machine-mib must be", 0},
		{someDomain + "[evidence]\npending-mib = 511\n", "pending-mib must be", 0},
		{someDomain + "[evidence]\nnode-mib = 15\n", "node-mib must be", 0},
		{someDomain + "[evidence]\nconnections-mib = 127\n", "connections-mib must be", 0},
		{someDomain + "[evidence]\njudgements = -1\n", "judgements must be", 0},
		{someDomain + "[evidence]\nturn-ms = 99\n", "turn-ms must be", 0},
		{someDomain + "[peer]\nlisten = \"7100\"\n", "peer.listen", 0},
		{someDomain + "[log]\nlevel = \"loud\"\n", "log.level", 0},
		{someDomain + "[log]\nformat = \"xml\"\n", "log.format", 0},
	} {
		_, err := ParseConfig([]byte(tc.text))
		var ce *conf.Error
		if !errors.As(err, &ce) {
			t.Errorf("%q: want a conf.Error, got %v", tc.text, err)
			continue
		}
		if ce.Line != tc.line || !strings.Contains(ce.Problem, tc.want) {
			t.Errorf("%q: want line %d with %q, got %v", tc.text, tc.line, tc.want, err)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(ExampleConfig))
	f.Add([]byte(someDomain))
	f.Add([]byte("[api]\nclients = [\"sha256:00\"]\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ParseConfig(raw)
		if err == nil && (c.Domain.IsZero() || c.API.MaxInFlight < 1) {
			t.Errorf("accepted %+v", c)
		}
	})
}
