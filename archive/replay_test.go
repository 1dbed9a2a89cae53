package archive

import (
	"errors"
	"strings"
	"testing"

	"github.com/keystead/keystead"
)

// TestDiffers compares verdicts that two builds came to on the same inputs: the same
// build's differing word is replay-differs, another build's is build-differs, and each
// names the members that differ and no others.
func TestDiffers(t *testing.T) {
	const endorsed = `{"claims":{"ima":{"entries":3},"tpm":{"bank":"sha256"}},"ok":true}`
	for name, tc := range map[string]struct {
		got, archived, now string
		want               keystead.Reason
		members            string
	}{
		"one build, a member differs":      {`{"claims":{"ima":{"entries":4},"tpm":{"bank":"sha256"}},"ok":true}`, "v1 go1.26", "v1 go1.26", keystead.ReasonReplayDiffers, `["claims.ima.entries"]`},
		"another build, a member differs":  {`{"claims":{"ima":{"entries":3},"tpm":{"bank":"sha384"}},"ok":true}`, "v1 go1.26", "v2 go1.26", keystead.ReasonBuildDiffers, `["claims.tpm.bank"]`},
		"another Go, a new member":         {`{"claims":{"ima":{"entries":3},"tpm":{"bank":"sha256"}},"new":1,"ok":true}`, "v1 go1.26", "v1 go1.27", keystead.ReasonBuildDiffers, `["new"]`},
		"another build, a member is gone":  {`{"claims":{"tpm":{"bank":"sha256"}},"ok":true}`, "v1 go1.26", "v2 go1.26", keystead.ReasonBuildDiffers, `["claims.ima"]`},
		"the same members, other spelling": {`{"ok":true,"claims":{"ima":{"entries":3},"tpm":{"bank":"sha256"}}}`, "v1 go1.26", "v1 go1.26", keystead.ReasonReplayDiffers, `["text"]`},
		"no verdict":                       {`{`, "v1 go1.26", "v1 go1.26", keystead.ReasonReplayDiffers, `["text"]`},
	} {
		err := differs([]byte(endorsed), []byte(tc.got), tc.archived, tc.now)
		if !errors.Is(err, tc.want) || !strings.HasSuffix(err.Error(), "these differ: "+tc.members) {
			t.Errorf("%s: %v, want %s of %s", name, err, tc.want, tc.members)
		}
		if other := tc.archived != tc.now; other != strings.Contains(err.Error(), tc.now) {
			t.Errorf("%s: names the build that replays: %v", name, err)
		}
	}
}
