package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/agent/part"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/internal/toy"
	"github.com/keystead/keystead/internal/toy/toyagent"
	"github.com/keystead/keystead/internal/toy/toycmd"
)

// mute is the toy's part as its author might have left it: it declares nothing.
type mute struct{ *toyagent.Part }

func (mute) Declare(*part.Declaration) {}

// with adds parts to those that every agent has.
func with(more ...maker) func(*Agent) []maker {
	return func(a *Agent) []maker { return append(a.parts(), more...) }
}

func greet(a *Agent, name string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out wrapperspb.StringValue
	err := client.Local(a.cfg.Socket.Path).Call(ctx, toy.Greet, wrapperspb.String(name), &out)
	return out.GetValue(), err
}

// TestToyPart runs the least part on a real agent, and its command on the real command line: it
// serves with the lease, asks nodes what it declared, and is told when the lease is gone.
func TestToyPart(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	var p *toyagent.Part
	a := d.startWith(m, with(func(h part.Host) (part.Part, error) { p = toyagent.New(h); return p, nil }), fast, func(c *Config) { c.Ops.Listen = "127.0.0.1:0" })
	d.phase(a, Unenrolled)
	_, err := greet(a, "ada")
	is(t, err, keystead.ReasonHostUnenrolled)
	d.enrol(a)
	d.phase(a, Admitted)

	self, err := os.Executable()
	must(t, err)
	content, err := os.ReadFile(self)
	must(t, err)
	want := fmt.Sprintf("hello ada, from web-1, to uid %d at level peer, %s", os.Geteuid(), keystead.Sum(content))
	if got, err := greet(a, "ada"); err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	tells(t, a, 200, "keystead_agent_toy_greetings_total 1")
	var stdout, stderr bytes.Buffer
	line := &cli.App{Stdout: &stdout, Stderr: &stderr}
	root := line.Root(line.Noun("keystead", "", "", ""), toycmd.Commands)
	if status := line.Run(root, []string{"toy", "greet", "ada", "--socket", a.cfg.Socket.Path}); status != 0 || stdout.String() != want+"\n" {
		t.Errorf("the command exits %d with %q, %q", status, stdout.String(), stderr.String())
	}
	_, err = greet(a, "")
	is(t, err, keystead.ReasonMalformed)
	_, err = greet(a, strings.Repeat("x", 2<<10)) // more than the procedure's limit
	is(t, err, keystead.ReasonTooLarge)

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if tick, err := p.Tick(ctx); err != nil || tick == 0 {
		t.Errorf("asked what is declared: %d, %v", tick, err)
	}
	if err := p.Admit(ctx); err == nil || !strings.Contains(err.Error(), "did not declare") {
		t.Errorf("asked what is not declared: %v", err)
	}
	before := p.Losses()
	_, err = m.Advance(ctx) // an altered file runs
	must(t, err)
	d.phase(a, Refused)
	if p.Losses() == before {
		t.Error("the part was not told that the lease is gone")
	}
	_, err = greet(a, "ada")
	is(t, err, keystead.ReasonLeaseSuspended)
}

// TestUndeclaredAnswersNobody: a part that declares nothing is asked nothing and asks nothing.
func TestUndeclaredAnswersNobody(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	var p *toyagent.Part
	a := d.startWith(m, with(func(h part.Host) (part.Part, error) { p = toyagent.New(h); return mute{p}, nil }))
	d.enrol(a)
	d.phase(a, Admitted)
	var format *keystead.FormatError
	if got, err := greet(a, "ada"); !errors.As(err, &format) || !strings.Contains(err.Error(), "none that this machine's agent answers") {
		t.Errorf("an undeclared procedure answers %q, %v", got, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := p.Tick(ctx); err == nil || !strings.Contains(err.Error(), "did not declare") {
		t.Errorf("a part that declared nothing asks a node: %v", err)
	}
}

// TestDeclarationsThatCanNotBe are found before the agent answers anybody.
func TestDeclarationsThatCanNotBe(t *testing.T) {
	good := part.Limits{Request: 1, Time: time.Second}
	procedure := func(name string, l part.Limits) func(*part.Declaration) {
		return func(d *part.Declaration) {
			d.Procedures = append(d.Procedures, part.Unary(name, l, func(context.Context, *wrapperspb.StringValue) (*wrapperspb.StringValue, error) { return nil, nil }))
		}
	}
	for _, tc := range []struct {
		name    string
		declare func(*part.Declaration)
		want    string
	}{
		{"other", procedure(toy.Greet, good), "parts toy and other both serve"},
		{"other", procedure("/keystead.v1.AgentService/ReleaseKey", good), "parts agent and other both serve"},
		{"other", procedure("anything", good), "is no procedure"},
		{"other", procedure("/x.Y/", good), "is no procedure"},
		{"other", procedure("/x.Y/Z", part.Limits{Time: time.Second}), "has the limits"},
		{"other", procedure("/x.Y/Z", part.Limits{Request: 1}), "has the limits"},
		{"other", procedure("/x.Y/Z", part.Limits{Request: 1, Time: time.Hour}), "has the limits"},
		{"other", func(d *part.Declaration) { d.Calls = []string{"Nonce"} }, "that a node has"},
		{"Other", func(*part.Declaration) {}, "lower case"},
		{"svid", func(*part.Declaration) {}, "two parts are named svid"},
		{"other", func(d *part.Declaration) { d.Metrics = toyMetrics("keystead_toy") }, "keystead_agent_"},
		{"other", func(d *part.Declaration) { d.Metrics = toyMetrics("keystead_agent_toy_greetings_total") }, "previously registered"},
	} {
		a := &Agent{}
		a.cfg.SVID.Dir = t.TempDir()
		a.self = &identity{}
		var err error
		a.ops, err = newOps(a, "", "")
		must(t, err)
		toys := func(h part.Host) (part.Part, error) { return toyagent.New(h), nil }
		err = a.assemble(append(a.parts(), toys, func(part.Host) (part.Part, error) { return declared{tc.name, tc.declare}, nil }))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: want %q, got %v", tc.name, tc.want, err)
		}
	}
}

// declared is a part that does no more than declare.
type declared struct {
	name    string
	declare func(*part.Declaration)
}

func (d declared) Name() string                 { return d.name }
func (d declared) Declare(to *part.Declaration) { d.declare(to) }
func (declared) Leased(part.Lease)              {}
func (declared) Lost(part.Loss)                 {}
func (declared) Close() error                   { return nil }

func toyMetrics(name string) []prometheus.Collector {
	return []prometheus.Collector{prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: "x"})}
}
