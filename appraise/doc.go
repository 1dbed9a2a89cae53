// Package appraise turns evidence into a verdict (RFC 9334: appraisal of evidence).
//
// [Appraise] is a pure function: the same input gives the same bytes on every node
// of one build, and years later. It believes nothing in the bundle until a
// signature covers it, and goes in this order:
//
//  1. root of trust: the attestation key is the accepted one and fit for it, the
//     quote's signature verifies, the quote answers this question, the stated
//     registers are the quoted ones;
//  2. logs: the firmware's and the kernel's log lead to the quoted registers;
//  3. software: every file that the log covers is named by a package or a code set;
//  4. policy: assurance and rules over the claims that are now established.
//
// A stage that fails hides the ones after it, because their input is not
// established; within a stage every finding is reported, up to a bound. Claims and
// assurance hold what is established and nothing else.
//
// It trusts whoever chose the input: the accepted key, the endorsement roots, the
// reference sets, the code sets' signers and the policy.
package appraise
