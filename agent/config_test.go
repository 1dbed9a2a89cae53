package agent

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/keystead/keystead/internal/conf"
)

const some = "domain = \"sha256:0000000000000000000000000000000000000000000000000000000000000001\"\nhost = \"web-1\"\n"

// TestExampleConfig holds the manual to the code: it parses, gives the defaults, and
// has every field, each with a comment that says who is trusted.
func TestExampleConfig(t *testing.T) {
	c, err := ParseConfig([]byte(ExampleConfig))
	must(t, err)
	def := DefaultConfig()
	def.Domain, def.Host = c.Domain, c.Host
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
		{some + "socket = 3\n", "", 3},
		{some + "listen = \":1\"\n", "listen is not a field", 3},
		{some + "[socket]\nmax = 3\n", "socket.max is not a field", 4},
		{"host = \"web-1\"\n", "domain must be set", 0},
		{strings.Replace(some, "web-1", "Web 1", 1), "host must be set", 0},
		{"dir = \"\"\n" + some, "dir must be set", 0},
		{some + "[tpm]\nroot = \"\"\n", "tpm.root must be set", 0},
		{some + "[evidence]\ninterval-ms = 99\n", "evidence.interval-ms", 0},
		{some + "[evidence]\ninterval-ms = -1\n", "evidence.interval-ms", 0},
		{some + "[socket]\npath = \"\"\n", "socket.path", 0},
		{some + "[socket]\npath = \"/" + strings.Repeat("x", 100) + "\"\n", "socket.path", 0},
		{some + "[socket]\nmode = \"0888\"\n", "socket.mode", 0},
		{some + "[socket]\nmode = \"0066\"\n", "socket.mode", 0},
		{some + "[socket]\nmax-connections = 0\n", "socket.max-connections", 0},
		{some + "[socket]\nmax-per-user = 257\n", "socket.max-per-user", 0},
		{some + "[socket]\nreleases-per-second = 0\n", "socket.releases-per-second", 0},
		{some + "[log]\nlevel = \"loud\"\n", "log.level", 0},
		{some + "[log]\nformat = \"xml\"\n", "log.format", 0},
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
	f.Add([]byte(some))
	f.Add([]byte("[socket]\nmode = \"0777\"\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ParseConfig(raw)
		if err == nil && (c.Domain.IsZero() || c.Socket.MaxConnections < 1 || !hostName(c.Host)) {
			t.Errorf("accepted %+v", c)
		}
	})
}
