package serve

import (
	"context"
	"strings"

	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
)

// GetState implements the API's HostService.
func (s *booksAPI) GetState(ctx context.Context, r *apiv1.GetStateRequest) (*apiv1.GetStateResponse, error) {
	if n := len(r.GetKeys()) + len(r.GetSubjects()); n == 0 || n > maxStateKeys {
		return nil, malformed("keys and subjects", "are %d, not 1 to %d", n, maxStateKeys)
	}
	out := &apiv1.GetStateResponse{}
	err := s.ledger.View(ctx, true, func(v ledger.View) error {
		status, err := v.Status()
		if err != nil {
			return err
		}
		out.ClockMs = status.Clock
		for _, k := range r.GetKeys() {
			x, err := v.Judged(k)
			if err == nil {
				err = part.Spend(ctx, len(k)+len(x.Data))
			}
			if err != nil {
				return err
			}
			out.Values = append(out.Values, &apiv1.Value{Key: k, Value: x.Data, Version: x.Version})
		}
		for _, name := range r.GetSubjects() {
			kind, subject, ok := cutSubject(name)
			if !ok {
				return malformed("subjects", "%.80q is not TYPE/SUBJECT", name)
			}
			version, err := v.Subject(kind, subject)
			if err != nil {
				return err
			}
			out.Versions = append(out.Versions, version)
		}
		return nil
	})
	return out, err
}

func cutSubject(s string) (kind, subject string, ok bool) {
	kind, subject, ok = strings.Cut(s, "/")
	return kind, subject, ok && kind != "" && subject != ""
}
