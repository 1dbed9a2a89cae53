package node

import (
	"context"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/keystead/keystead/api/app/v1/appv1connect"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/part"
)

// everyPart is a node's parts, none of them started.
func everyPart(t *testing.T, more ...part.Part) (*assembly, error) {
	t.Helper()
	n := newNode(Config{}, Options{})
	return assemble(n, append(append([]part.Part{own{n}}, parts(&Systems{}, grants{leases{n.admission}, n})...), more...))
}

// TestEveryProcedureIsDeclared: each procedure of the API is answered by a node, or by an agent,
// and a node's parts declare none that the API does not have.
func TestEveryProcedureIsDeclared(t *testing.T) {
	a, err := everyPart(t)
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	for _, p := range a.procedures() {
		declared[p.Path] = true
	}
	known, agents := 0, []protoreflect.FullName{apiv1connect.AgentServiceName, appv1connect.LaunchServiceName}
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			if !strings.HasPrefix(string(s.FullName()), "keystead.") || slices.Contains(agents, s.FullName()) {
				continue
			}
			for j := range s.Methods().Len() {
				path := "/" + string(s.FullName()) + "/" + string(s.Methods().Get(j).Name())
				if !declared[path] {
					t.Errorf("no part declares %s", path)
				}
				delete(declared, path)
				known++
			}
		}
		return true
	})
	for path := range declared {
		t.Errorf("%s is declared, and no procedure of the API", path)
	}
	if known < 25 {
		t.Errorf("%d procedures; are they still found?", known)
	}
}

// claims is a part that declares what it is told to.
type claims struct {
	part.Part
	name    string
	declare func(*part.Declaration)
}

func (c claims) Name() string                         { return c.name }
func (c claims) Declare(d *part.Declaration)          { c.declare(d) }
func (claims) Start(context.Context, part.Host) error { return nil }

// TestPartsDoNotOverlap: no part takes what another one, or the node itself, has declared, nor
// what the node could not hold strangers to.
func TestPartsDoNotOverlap(t *testing.T) {
	answer := func(path string, l part.Limits) func(*part.Declaration) {
		return func(d *part.Declaration) {
			d.Procedures = append(d.Procedures, part.Unary(path, l, func(context.Context, *apiv1.ShowRequest) (*apiv1.ShowResponse, error) { return nil, nil }))
		}
	}
	fine := part.Limits{In: 1, Values: 1, Out: 1}
	for name, c := range map[string]struct {
		part claims
		want string
	}{
		"nothing":             {claims{name: "x", declare: func(*part.Declaration) {}}, ""},
		"one of its own":      {claims{name: "x", declare: answer("/x/y", fine)}, ""},
		"another's name":      {claims{name: "watch", declare: func(*part.Declaration) {}}, "part watch declares part watch"},
		"another's procedure": {claims{name: "x", declare: answer(apiv1connect.HostServiceWatchHostsProcedure, fine)}, "which is declared by watch"},
		"no limits":           {claims{name: "x", declare: answer("/x/y", part.Limits{})}, "bounds too little"},
		"the node's contract": {claims{name: "x", declare: func(d *part.Declaration) { d.Contracts = []string{"svid"} }}, "which is declared by node"},
		"a judged type":       {claims{name: "x", declare: func(d *part.Declaration) { d.Judges = []part.JudgedType{{Type: "lease"}} }}, "which is declared by node"},
		"the node's ticks":    {claims{name: "x", declare: func(d *part.Declaration) { d.Signs = []string{"keystead tick/1"} }}, "which is declared by node"},
		"a context in two lines, which opens as the node's does": {claims{name: "x", declare: func(d *part.Declaration) { d.Signs = []string{"keystead tick/1\nx"} }}, "not one line"},
		"no context": {claims{name: "x", declare: func(d *part.Declaration) { d.Signs = []string{""} }}, "not one line"},
	} {
		_, err := everyPart(t, c.part)
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
