// placeholder of the lead until the real one is written
import { createSSEParser } from './sse.ts'
export interface ContentScanner { push(bytes: Uint8Array): boolean; end(): boolean; readonly first: 'none' | 'content' | 'error' | 'end'; readonly ended: boolean; readonly errorStatus: number | undefined }
export function createContentScanner(): ContentScanner {
  let first: ContentScanner['first'] = 'none'
  let n = 0
  const parser = createSSEParser(({ event, data }) => {
    if (data === '[DONE]') { if (first === 'none') first = 'end' } 
    else if (event === 'error' || data.includes('"error":{')) { if (first === 'none') first = 'error' }
    else if (!data.includes('"content":""') && data !== '{}' && event !== 'ping') { n++; if (first === 'none') first = 'content' }
  })
  return { push(bytes) { const b = n; parser.push(bytes); return n > b }, end() { const b = n; parser.end(); return n > b }, get first() { return first }, ended: false, errorStatus: undefined }
}
