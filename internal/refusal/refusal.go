// Package refusal carries refusals over the API and back: a keystead.DenyError
// becomes a Connect error with its findings as detail, and on the other side a
// keystead.DenyError again. It trusts neither side: what comes back is bounded,
// and holds reasons of the closed list only.
package refusal

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"
	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
)

// Bounds of a refusal that is read.
const (
	maxFindings = 256
	maxText     = 4096 // bytes of want, got and where
)

// codes gives each stage its Connect code, and with it the HTTP status.
var codes = map[keystead.Stage]connect.Code{
	keystead.StageMisuse:      connect.CodeInvalidArgument,
	keystead.StageSignature:   connect.CodePermissionDenied,
	keystead.StageCollateral:  connect.CodeFailedPrecondition,
	keystead.StageRevoked:     connect.CodePermissionDenied,
	keystead.StagePolicy:      connect.CodePermissionDenied,
	keystead.StageUnavailable: connect.CodeUnavailable,
	keystead.StageNotFound:    connect.CodeNotFound,
	keystead.StageInternal:    connect.CodeInternal,
}

// Encode returns err as the API sends it. A FormatError is the finding malformed;
// what is neither, nor the end of a context, is internal and tells no details.
func Encode(err error) error {
	if err == nil {
		return nil
	}
	var sent *connect.Error
	if errors.As(err, &sent) {
		return err
	}
	deny := Deny(err)
	if deny == nil {
		return connect.NewError(connect.CodeInternal, errors.New("internal error; the node's log has it"))
	}
	code := codes[deny.Stage()]
	if errors.Is(deny, keystead.ReasonMalformed) {
		code = connect.CodeInvalidArgument
	}
	out := connect.NewError(code, errors.New(deny.Error()))
	if detail, err := connect.NewErrorDetail(Message(deny)); err == nil {
		out.AddDetail(detail)
	}
	return out
}

// Deny returns err as a refusal, or nil if it is none.
func Deny(err error) *keystead.DenyError {
	var deny *keystead.DenyError
	var format *keystead.FormatError
	switch {
	case errors.As(err, &deny):
		return deny
	case errors.As(err, &format):
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonMalformed, Got: format.Problem,
			Where: fmt.Sprintf("%s, offset %d, %s", format.Format, format.Offset, format.Field)})
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonTimeout, Got: "no outcome in time", Where: "node"})
	}
	return nil
}

// Message returns the refusal's wire form.
func Message(deny *keystead.DenyError) *apiv1.Refusal {
	out := &apiv1.Refusal{}
	for _, f := range deny.Findings[:min(len(deny.Findings), maxFindings)] {
		out.Findings = append(out.Findings, &apiv1.Finding{Reason: string(f.Reason), Want: clip(f.Want), Got: clip(f.Got), Where: clip(f.Where)})
	}
	return out
}

func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxText)], "?") }

// Decode returns the refusal that a Connect error carries as a DenyError. An error
// of the transport becomes unavailable: whether the request took effect is not known.
func Decode(err error) error {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return err
	}
	for _, d := range ce.Details() {
		if v, err := d.Value(); err == nil {
			if r, ok := v.(*apiv1.Refusal); ok {
				if deny := Parse(r); deny != nil {
					return deny
				}
			}
		}
	}
	reason := map[connect.Code]keystead.Reason{
		connect.CodeUnavailable:       keystead.ReasonNoQuorum,
		connect.CodeCanceled:          keystead.ReasonTimeout,
		connect.CodeDeadlineExceeded:  keystead.ReasonTimeout,
		connect.CodeResourceExhausted: keystead.ReasonTooLarge,
		connect.CodeInvalidArgument:   keystead.ReasonMalformed,
	}[ce.Code()]
	if reason == "" {
		return err
	}
	return keystead.Deny(keystead.Finding{Reason: reason, Got: clip(ce.Message()), Where: "connection to the node"})
}

// Parse returns the refusal of a wire form, or nil if it holds no known reason.
func Parse(r *apiv1.Refusal) *keystead.DenyError {
	var findings []keystead.Finding
	for _, f := range r.GetFindings()[:min(len(r.GetFindings()), maxFindings)] {
		reason := keystead.Reason(f.GetReason())
		if !reason.Known() {
			continue
		}
		findings = append(findings, keystead.Finding{Reason: reason, Want: clip(f.GetWant()), Got: clip(f.GetGot()), Where: clip(f.GetWhere())})
	}
	if len(findings) == 0 {
		return nil
	}
	return keystead.Deny(findings...)
}
