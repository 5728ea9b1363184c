import type { MessageTables } from './protobuf.ts'

/**
 * The messages of OTLP 1 that the sink reads (opentelemetry-proto: collector/{trace,metrics,logs}/v1, trace/v1, metrics/v1,
 * logs/v1, common/v1, resource/v1), with the names that OTLP/JSON gives the fields.
 */
export const otlpMessages: MessageTables = {
  ExportTraceServiceRequest: { 1: ['resourceSpans', 'ResourceSpans[]'] },
  ResourceSpans: { 1: ['resource', 'Resource'], 2: ['scopeSpans', 'ScopeSpans[]'] },
  ScopeSpans: { 1: ['scope', 'Scope'], 2: ['spans', 'Span[]'] },
  Span: {
    1: ['traceId', 'id'],
    2: ['spanId', 'id'],
    4: ['parentSpanId', 'id'],
    5: ['name', 'string'],
    6: ['kind', 'int32'],
    7: ['startTimeUnixNano', 'fixed64'],
    8: ['endTimeUnixNano', 'fixed64'],
    9: ['attributes', 'KeyValue[]'],
    11: ['events', 'Event[]'],
    13: ['links', 'Link[]'],
    15: ['status', 'Status']
  },
  Event: { 1: ['timeUnixNano', 'fixed64'], 2: ['name', 'string'], 3: ['attributes', 'KeyValue[]'] },
  Link: { 1: ['traceId', 'id'], 2: ['spanId', 'id'], 4: ['attributes', 'KeyValue[]'] },
  Status: { 2: ['message', 'string'], 3: ['code', 'int32'] },

  ExportMetricsServiceRequest: { 1: ['resourceMetrics', 'ResourceMetrics[]'] },
  ResourceMetrics: { 1: ['resource', 'Resource'], 2: ['scopeMetrics', 'ScopeMetrics[]'] },
  ScopeMetrics: { 1: ['scope', 'Scope'], 2: ['metrics', 'Metric[]'] },
  Metric: {
    1: ['name', 'string'],
    2: ['description', 'string'],
    3: ['unit', 'string'],
    5: ['gauge', 'Points'],
    7: ['sum', 'Points'],
    9: ['histogram', 'HistogramPoints'],
    10: ['exponentialHistogram', 'ExponentialPoints']
  },
  // Gauge and Sum: a gauge has the first field only.
  Points: { 1: ['dataPoints', 'NumberPoint[]'], 2: ['aggregationTemporality', 'int32'], 3: ['isMonotonic', 'bool'] },
  HistogramPoints: { 1: ['dataPoints', 'HistogramPoint[]'], 2: ['aggregationTemporality', 'int32'] },
  ExponentialPoints: { 1: ['dataPoints', 'ExponentialPoint[]'], 2: ['aggregationTemporality', 'int32'] },
  NumberPoint: {
    2: ['startTimeUnixNano', 'fixed64'],
    3: ['timeUnixNano', 'fixed64'],
    4: ['asDouble', 'double'],
    6: ['asInt', 'sfixed64'],
    7: ['attributes', 'KeyValue[]']
  },
  HistogramPoint: {
    2: ['startTimeUnixNano', 'fixed64'],
    3: ['timeUnixNano', 'fixed64'],
    4: ['count', 'fixed64'],
    5: ['sum', 'double'],
    6: ['bucketCounts', 'fixed64[]'],
    7: ['explicitBounds', 'double[]'],
    9: ['attributes', 'KeyValue[]'],
    11: ['min', 'double'],
    12: ['max', 'double']
  },
  ExponentialPoint: {
    1: ['attributes', 'KeyValue[]'],
    2: ['startTimeUnixNano', 'fixed64'],
    3: ['timeUnixNano', 'fixed64'],
    4: ['count', 'fixed64'],
    5: ['sum', 'double'],
    12: ['min', 'double'],
    13: ['max', 'double']
  },

  ExportLogsServiceRequest: { 1: ['resourceLogs', 'ResourceLogs[]'] },
  ResourceLogs: { 2: ['scopeLogs', 'ScopeLogs[]'] },
  ScopeLogs: { 2: ['logRecords', 'LogRecord[]'] },
  LogRecord: { 5: ['body', 'AnyValue'], 6: ['attributes', 'KeyValue[]'] },

  Resource: { 1: ['attributes', 'KeyValue[]'] },
  Scope: { 1: ['name', 'string'], 2: ['version', 'string'] },
  KeyValue: { 1: ['key', 'string'], 2: ['value', 'AnyValue'] },
  AnyValue: {
    1: ['stringValue', 'string'],
    2: ['boolValue', 'bool'],
    3: ['intValue', 'int64'],
    4: ['doubleValue', 'double'],
    5: ['arrayValue', 'ArrayValue'],
    6: ['kvlistValue', 'KeyValueList'],
    7: ['bytesValue', 'bytes']
  },
  ArrayValue: { 1: ['values', 'AnyValue[]'] },
  KeyValueList: { 1: ['values', 'KeyValue[]'] }
}
