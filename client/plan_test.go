package client

import (
	"context"
	"errors"
	"net/http/httptest"
	"testing"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
)

// pages answers questions for plans, page after page.
type pages struct {
	apiv1connect.UnimplementedHostServiceHandler
	pages []*apiv1.PlanTermsResponse
	asked []string
}

func (p *pages) PlanTerms(_ context.Context, r *connect.Request[apiv1.PlanTermsRequest]) (*connect.Response[apiv1.PlanTermsResponse], error) {
	p.asked = append(p.asked, r.Msg.GetAfter())
	return connect.NewResponse(p.pages[(len(p.asked)-1)%len(p.pages)]), nil
}

// TestPlanPages: a plan is read to its end, and one that tells hosts twice, out of order, or without end
// is no plan.
func TestPlanPages(t *testing.T) {
	page := func(more bool, names ...string) *apiv1.PlanTermsResponse {
		out := &apiv1.PlanTermsResponse{More: more, ClockMs: 7}
		for _, name := range names {
			out.Hosts = append(out.Hosts, &apiv1.PlannedHost{Name: name, Outcome: Stays})
		}
		return out
	}
	nodes := page(true)
	nodes.Hosts = []*apiv1.PlannedHost{{Name: "n1", Node: true, Outcome: Stays}, {Name: "a"}}
	for what, tc := range map[string]struct {
		pages []*apiv1.PlanTermsResponse
		want  int // hosts; -1: refused
		asked int
	}{
		"one page":                    {[]*apiv1.PlanTermsResponse{page(false, "a", "b")}, 2, 1},
		"three, of which one is last": {[]*apiv1.PlanTermsResponse{page(true, "a", "b"), page(true, "c"), page(false, "d")}, 4, 3},
		"nodes first":                 {[]*apiv1.PlanTermsResponse{nodes, page(false, "b")}, 3, 2},
		"a host twice":                {[]*apiv1.PlanTermsResponse{page(false, "a", "a")}, -1, 1},
		"a page again":                {[]*apiv1.PlanTermsResponse{page(true, "a"), page(true, "a")}, -1, 2},
		"backwards":                   {[]*apiv1.PlanTermsResponse{page(true, "b"), page(false, "a")}, -1, 2},
		"more, without a host":        {[]*apiv1.PlanTermsResponse{page(true, "a"), page(true)}, -1, 2},
	} {
		h := &pages{pages: tc.pages}
		_, handler := apiv1connect.NewHostServiceHandler(h)
		s := httptest.NewServer(handler)
		n := &node{host: apiv1connect.NewHostServiceClient(s.Client(), s.URL)}
		hosts, clock, err := n.planTerms(context.Background(), nil, nil)
		var form *keystead.FormatError
		if refused := errors.As(err, &form); refused != (tc.want < 0) || err != nil && !refused || err == nil && (len(hosts) != tc.want || clock != 7) || len(h.asked) != tc.asked {
			t.Errorf("%s: %d hosts, asked %q: %v", what, len(hosts), h.asked, err)
		}
		s.Close()
	}
}

// TestPlanWorst: of what nodes say of a host, the worst is shown, with how many say so.
func TestPlanWorst(t *testing.T) {
	by := map[string]*Planned{}
	for _, outcome := range []string{Unknown, Stays, FallsOut, Stays, FallsOut, "well"} {
		take(by, &apiv1.PlannedHost{Name: "web-1", Outcome: outcome, EvidenceMs: 5})
	}
	take(by, &apiv1.PlannedHost{Name: "web-1", Node: true, Outcome: Unknown})
	take(by, &apiv1.PlannedHost{Name: "web-2"})
	if h := by["false/web-1"]; h == nil || h.Outcome != FallsOut || h.Said != 2 || h.Known != 4 {
		t.Errorf("%+v", h)
	}
	if h := by["true/web-1"]; len(by) != 2 || h == nil || h.Outcome != Unknown || h.Said != 1 || h.Known != 0 {
		t.Errorf("%+v, of %d", h, len(by))
	}
}
