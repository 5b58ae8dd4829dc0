// What Grafana expects of a dashboard: its own published types, for each kind of panel that is used here.
//
// Knows: which type describes which panel. Does not know: what the panels show.
//
// Decision: Grafana publishes the schema of dashboards as types of TypeScript and no longer as JSON schema, so the
// dashboard is checked by the compiler. As a literal, it must not have members that the types do not have either.

import type { Dashboard, Panel, RowPanel } from '@grafana/schema';
import type * as bargauge from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type * as heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

/** A type as JSON has it: each enumeration of strings is the union of its values. */
type Json<T> = T extends string
  ? `${T}`
  : T extends (infer Item)[]
    ? Json<Item>[]
    : T extends object
      ? { [Key in keyof T]: Json<T[Key]> }
      : T;

/** A query of the data source for Prometheus, whose types are not among the published ones. */
interface Query {
  refId: string;
  expr: string;
  legendFormat: string;
  format: 'time_series' | 'table' | 'heatmap';
  instant: boolean;
  range: boolean;
}

interface Field<Custom> {
  defaults: Omit<NonNullable<Panel['fieldConfig']>['defaults'], 'custom'> & { custom?: Custom };
  overrides: [];
}

/** A panel in which everything is given that an owner of a server reads. */
type PanelOf<Type extends string, Options, Custom> = Omit<
  Panel,
  'type' | 'title' | 'description' | 'datasource' | 'gridPos' | 'id' | 'options' | 'fieldConfig' | 'targets'
> &
  Required<Pick<Panel, 'title' | 'description' | 'datasource' | 'gridPos' | 'id'>> & {
    type: Type;
    options: Options;
    fieldConfig: Field<Custom>;
    targets: Query[];
  };

type KnownPanel =
  | RowPanel
  | PanelOf<'stat', stat.Options, never>
  | PanelOf<'bargauge', bargauge.Options, never>
  | PanelOf<'heatmap', heatmap.Options, heatmap.FieldConfig>
  | PanelOf<'timeseries', timeseries.Options, timeseries.FieldConfig>;

type Given = 'uid' | 'title' | 'time' | 'templating' | 'refresh' | 'tags';

/** The file that is imported into Grafana. */
export type ImportedDashboard = Json<
  Omit<Dashboard, 'panels' | Given> & Required<Pick<Dashboard, Given>> & { panels: KnownPanel[] }
>;
