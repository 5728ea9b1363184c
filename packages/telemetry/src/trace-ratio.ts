/** As `TraceIdRatioBased` of the JavaScript SDK decides: the four words of the id, folded into one, lie below the ratio. */
export function inRatio(traceId: string, ratio: number): boolean {
  if (ratio === 1) return true
  let folded = 0
  for (let at = 0; at < 32; at += 8) folded ^= Number.parseInt(traceId.slice(at, at + 8), 16)
  return folded >>> 0 < Math.floor(ratio * 0xffff_ffff)
}
